"""What the graph asks of the worker process: one JSON file a job, read by `python -m distill_dagster.worker JOB.json`.

The models are all the two sides know of each other. Paths are absolute. The worker writes into the job's
`out` folder only; a file appears there whole (written aside and renamed) or not at all.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_dagster.spec.students import LoraSpec
from distill_dagster.spec.teacher import Dtype

PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
ERROR_FILE = "error.json"


class JobModel(BaseModel):
    """Strict and frozen, like the YAML's models."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelRef(JobModel):
    """A model to load: a local folder or a hub id."""

    source: str
    revision: str | None = None
    trust_remote_code: bool = False


class PrunedBase(JobModel):
    """A model whose layers are pruned in depth, chosen by block influence on calibration prompts."""

    model: ModelRef
    layers: int


class GenerateJob(JobModel):
    """Greedy answers of a local teacher.

    `requests`: Parquet with request_key (str), messages (str: JSON list of {role, content}, system included).
    Writes `shard-<n>.parquet` with RESPONSE_SHARD columns as batches end, longest prompts first.
    """

    kind: Literal["generate"] = "generate"
    engine: Literal["transformers", "vllm"] = "transformers"
    model: ModelRef
    dtype: Dtype
    max_tokens: int
    stop_sequences: list[str]
    batch_size: int
    batch_tokens: int | None = Field(
        None, description="Most tokens, prompt and longest answer over all rows, that one batch holds at once."
    )
    requests: Path
    out: Path


class TrainJob(JobModel):
    """Output distillation of one student.

    `dataset`: folder with train.parquet and validation.parquet (DATASET columns).
    Writes `checkpoints/` while it runs (resumed from when present) and, at the end, `student/`
    (model.safetensors, config.json, tokenizer files, generation_config.json), `base/` where the base was pruned
    (the undistilled base, same format), and result.json (TrainResult).
    """

    kind: Literal["train"] = "train"
    base: ModelRef | PrunedBase
    teacher: ModelRef | None = Field(
        description="The local teacher, whose token ids are used where its tokenizer is the base's; None if hosted."
    )
    dataset: Path
    epochs: float
    max_steps: int | None
    learning_rate: float
    lr_scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    gradient_accumulation: int
    max_length: int
    lora: LoraSpec | None
    seed: int
    precision: Literal["auto", "bf16", "fp32"]
    checkpoint_steps: int
    out: Path


class TrainResult(JobModel):
    """What training says of itself; no timings (they are in `measurements`)."""

    rows_trained: int
    rows_over_length: int
    over_length_ids: list[str] = Field(description="prompt ids, at most 1,000 listed")
    steps: int
    tokens_trained: int = Field(description="completion tokens the loss saw, over all epochs")
    train_loss: float
    validation_loss: float | None
    kept_layers: list[int] | None
    block_influence: list[float] | None
    parameters: int
    loss_curve: list[tuple[int, float]] = Field(description="(step, training loss)")
    validation_curve: list[tuple[int, float]]
    measurements: dict[str, float]


class PredictModel(JobModel):
    """One model to measure, under the name it has in the report."""

    name: Literal["student", "base", "teacher"]
    model: ModelRef
    dtype: Dtype
    generate: bool = Field(description="False for the teacher: its stored answers are its predictions; it is timed.")


class PredictJob(JobModel):
    """Greedy answers, and teacher-forced agreement with the local teacher, on held-out rows.

    `rows`: DATASET columns of the test rows, and `teacher_messages`, the conversation as the teacher read it.
    `train_rows`: the training Parquet, for the most-frequent-token and bigram baselines.
    Writes `generated.parquet` (GENERATED columns), `fidelity.parquet` (FIDELITY columns; only with a local teacher)
    and result.json (PredictResult).
    """

    kind: Literal["predict"] = "predict"
    models: list[PredictModel]
    teacher_is_local: bool
    rows: Path
    train_rows: Path
    max_tokens: int
    batch_size: int
    max_length: int
    out: Path


class PredictResult(JobModel):
    """Sizes and speeds of each model by its report name."""

    parameters: dict[str, int]
    checkpoint_bytes: dict[str, int]
    measurements: dict[str, dict[str, float]] = Field(
        description="per model: answers, seconds, generated_tokens, tokens_per_second; and `worker`: peak_memory_bytes"
    )


class TryJob(JobModel):
    """One prompt, answered by several models (`distill try`); result.json maps each name to its answer."""

    kind: Literal["try"] = "try"
    models: list[PredictModel]
    messages: list[dict[str, str]]
    teacher_messages: list[dict[str, str]]
    max_tokens: int
    out: Path


Job = Annotated[GenerateJob | TrainJob | PredictJob | TryJob, Field(discriminator="kind")]


class ProgressLine(JobModel):
    """One line of progress.jsonl."""

    stage: str
    done: int
    total: int
    unit: str
    metrics: dict[str, float] = {}
