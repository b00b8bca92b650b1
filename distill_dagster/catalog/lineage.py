"""What lineage finds, as plain values: `asdict` of each is the JSON of `distill lineage`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AnsweredBy:
    """A teacher behind some rows.

    Attributes:
        model: the provider's model id; for a local teacher the digest of its weights.
        identity: digest of all that affects an answer beside the conversation.
        first_at, last_at: when its answers were stored (UTC).
    """

    provider: str
    model: str
    identity: str
    answers: int
    cost_microusd: int
    first_at: str
    last_at: str


@dataclass(frozen=True)
class PartitionInputs:
    """The versions of one partition that a dataset was made from."""

    partition: str
    prompts: str
    teacher_outputs: str | None


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset version.

    Attributes:
        stored: whether it is still on disk; where not, the rest is empty.
        rows: by split.
    """

    version: str
    stored: bool
    current: bool
    rows: Mapping[str, int]
    golden_set: str | None
    partitions: Sequence[PartitionInputs]


@dataclass(frozen=True)
class EvaluationFacts:
    """A stored evaluation."""

    student: str
    version: str
    current: bool
    student_version: str
    dataset_version: str
    report: str


@dataclass(frozen=True)
class ReleaseFacts:
    """What is released under a student's name."""

    student: str
    version: str
    evaluation_version: str | None


@dataclass(frozen=True)
class StudentLineage:
    """What a student comes from, and what came of it.

    Attributes:
        teacher: the teacher's model as declared.
        teachers: whose answers are in its training and validation rows.
        stale: whether it saw a prompt that was forgotten since.
    """

    distillation: str
    student: str
    version: str
    current: bool
    stale: bool
    objective: str | None
    targets: str | None
    teacher: str | None
    authorization: str | None
    base_version: str | None
    dataset: DatasetFacts | None
    teachers: Sequence[AnsweredBy]
    evaluations: Sequence[EvaluationFacts]
    releases: Sequence[ReleaseFacts]


@dataclass(frozen=True)
class StoredAnswer:
    """An answer in the response store; times in UTC, money in micro-dollars."""

    request_key: str
    provider: str
    model: str
    identity: str
    status: str
    stop_reason: str | None
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    transport: str
    client_version: str
    created_at: str


@dataclass(frozen=True)
class PromptVersion:
    """A version of a partition's prompts that has the prompt."""

    partition: str
    version: str
    current: bool
    split: str


@dataclass(frozen=True)
class PromptAnswer:
    """What the teacher answered to one sample of a prompt.

    Attributes:
        response: None where the store has it no more.
        teacher_outputs: versions that have this answer.
    """

    sample: int
    request_key: str
    status: str
    teacher_outputs: Sequence[str]
    response: StoredAnswer | None


@dataclass(frozen=True)
class DatasetRows:
    """A prompt's rows in a dataset version."""

    version: str
    current: bool
    split: str
    rows: int


@dataclass(frozen=True)
class DroppedRow:
    """Why a build of the dataset left a sample out."""

    build_key: str
    current: bool
    sample: int | None
    reason: str
    detail: str | None


@dataclass(frozen=True)
class Witness:
    """A student version whose dataset has the prompt.

    Attributes:
        saw: train and validation, or the split that it was only measured on.
    """

    student: str
    version: str
    current: bool
    saw: str


@dataclass(frozen=True)
class PromptLineage:
    """Everything that has a prompt, in one distillation."""

    distillation: str
    prompt_id: str
    prompts: Sequence[PromptVersion]
    golden_sets: Sequence[str]
    answers: Sequence[PromptAnswer]
    datasets: Sequence[DatasetRows]
    dropped: Sequence[DroppedRow]
    students: Sequence[Witness]
    evaluations: Sequence[EvaluationFacts]
    releases: Sequence[ReleaseFacts]


@dataclass(frozen=True)
class ResponseLineage:
    """A stored answer, and the prompts that it answers."""

    request_key: str
    response: StoredAnswer | None
    prompts: Sequence[PromptLineage]


@dataclass(frozen=True)
class Learner:
    """A student that learned from a teacher's model.

    Attributes:
        answers: the model's answers among its training and validation rows; 0 with `targets: reference`.
        rows: all of those rows.
    """

    distillation: str
    student: str
    version: str
    current: bool
    objective: str | None
    targets: str | None
    dataset_version: str | None
    answers: int
    rows: int
    released: bool


@dataclass(frozen=True)
class TeacherImpact:
    """What depends on a teacher's model."""

    model: str
    answers: int
    students: Sequence[Learner]
