"""What a plan says; `distill plan --json` prints exactly these fields."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Literal[1] = 1
Action = Literal["none", "will", "may"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowChanges(_Model):
    """Prompts beside the stored ones, told apart by prompt_id; `changed` ones have other content under the same id."""

    unchanged: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0

    def __add__(self, other: "RowChanges") -> "RowChanges":
        return RowChanges(
            unchanged=self.unchanged + other.unchanged,
            new=self.new + other.new,
            changed=self.changed + other.changed,
            removed=self.removed + other.removed,
        )


class TeacherCalls(_Model):
    """Distinct requests to the teacher.

    Attributes:
        needed: to be asked; with several samples an upper bound, since a refused prompt is not asked again.
        stored: answered already.
        in_batches: travelling in a provider batch.
    """

    needed: int = 0
    stored: int = 0
    in_batches: int = 0

    def __add__(self, other: "TeacherCalls") -> "TeacherCalls":
        return TeacherCalls(
            needed=self.needed + other.needed,
            stored=self.stored + other.stored,
            in_batches=self.in_batches + other.in_batches,
        )


class AssetPlan(_Model):
    """What becomes of one asset, or of one of its partitions.

    Attributes:
        name: the student's, for `student`, `evaluation` and `release`.
        action: `will` gets another version, or its first; `may` is looked at again, and whether its version changes
            hangs on answers to come; `none` stays.
        why: causes, the first one first; for `none` why it cannot be made, or nothing.
        rows: of `prompts`.
        calls: of `teacher_outputs`.
        sequences: of `teacher_logits`: the most to be captured.
        adopts: the version of an earlier build that is taken over, so that nothing is made anew.
    """

    asset: str
    name: str | None = None
    partition: str | None = None
    action: Action
    why: tuple[str, ...] = ()
    rows: RowChanges | None = None
    calls: TeacherCalls | None = None
    sequences: int | None = None
    adopts: str | None = None


class EvaluationCalls(_Model):
    """Distinct requests that evaluations make, beside those for answers to prompts.

    Attributes:
        asking: `judge` for its verdicts, `second_answers` for those of `evaluation.teacher_resample`, `golden_answers`
            for the teacher's to golden rows.
        student: of `judge`; None where the evaluations share the answers.
        exact: whether `calls` are exact; else the most that can be needed.
        most_microusd: the most that the needed ones can cost; None where they cost no money.
        basis: what the numbers rest on.
    """

    asking: Literal["judge", "second_answers", "golden_answers"]
    student: str | None = None
    calls: TeacherCalls
    exact: bool
    most_microusd: int | None = None
    basis: str


class CallEstimate(_Model):
    """Tokens and money of the calls that are needed.

    Attributes:
        input_tokens, output_tokens: expected.
        input_basis, output_basis: what they rest on.
        transport: how the requests would travel.
        expected_microusd, most_microusd: None for a local teacher, whose answers cost no money.
        budget_left_microusd: None where there is no budget.
    """

    input_tokens: int
    output_tokens: int
    input_basis: str
    output_basis: str
    transport: str
    expected_microusd: int | None = None
    most_microusd: int | None = None
    budget_left_microusd: int | None = None


class Plan(_Model):
    """What `distill run` would do now.

    Attributes:
        assets: every asset, partition by partition, in the order in which they are made.
        failed: what is wrong with the rows of a partition, by name; a run would stop there.
        rows, calls, sequences: sums over the partitions.
        estimate: of the calls that are needed; None where none is.
        evaluation_calls: those of evaluations that are, or may be, made anew; in none of the other numbers.
        notes: what the numbers leave out.
    """

    format: Literal[1] = FORMAT
    distillation: str
    provider: str
    model: str
    assets: tuple[AssetPlan, ...]
    failed: dict[str, str]
    rows: RowChanges
    calls: TeacherCalls
    sequences: int
    estimate: CallEstimate | None = None
    evaluation_calls: tuple[EvaluationCalls, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether a run would do nothing."""
        return not self.failed and all(asset.action == "none" for asset in self.assets)

    def of(self, asset: str) -> list[AssetPlan]:
        """The rows of one kind of asset."""
        return [row for row in self.assets if row.asset == asset]
