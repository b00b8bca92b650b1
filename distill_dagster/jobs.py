"""What the graph asks of the worker process: one JSON file a job, read by `python -m distill_dagster.worker JOB.json`.

The models are all the two sides know of each other. Paths are absolute. The worker writes into the job's
`out` folder only; a file appears there whole (written aside and renamed) or not at all.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distill_dagster.lineage.capture_identity import CaptureIdentity
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


class CaptureJob(JobModel):
    """Sparse targets of a teacher's distributions at stored completions.

    `sequences`: Parquet with request_key (str), messages (str: JSON, as the teacher read them), completion_ids
    (list of int32; null for a server's answers), completion (str) and keep_hidden (bool).
    Writes `logits-<n>.parquet` (logits/shards.py) as they fill, and `head.safetensors` with `head.json` before the
    first of them where any sequence keeps its hidden states; result.json has counts and measurements.
    """

    kind: Literal["capture"] = "capture"
    identity: CaptureIdentity
    model: ModelRef = Field(description="The teacher; for a server, where its tokenizer is.")
    dtype: Dtype
    server: "LogprobServer | None" = None
    batch_tokens: int
    seed: int = Field(17, description="Of the draws, with each sequence's key.")
    sequences: Path
    out: Path


class LogprobServer(JobModel):
    """A vLLM server that gives log-probabilities of given token ids; its key is in the environment."""

    base_url: str
    model: str
    concurrency: int


class LogitsInput(JobModel):
    """The captured sequences that a `logit` student learns from.

    `rows`: Parquet with prompt_id, sample, request_key, ids_hash, shard and row of training and validation rows.
    `shards`: the folder of shards, with head.safetensors where validation rows keep their hidden states.
    """

    identity: CaptureIdentity
    rows: Path
    shards: Path


class TrainJob(JobModel):
    """Training of one student, once for each seed.

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
    objective: Literal["sft", "logit", "on_policy"] = "sft"
    targets: Literal["teacher", "reference"] = "teacher"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    t_squared: bool = True
    ce_weight: float = 0.0
    logits: LogitsInput | None = None
    max_completion_tokens: int = Field(512, description="on_policy: longest answer of the student.")
    epochs: float
    max_steps: int | None
    learning_rate: float
    lr_scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    batch_size: int
    batch_tokens: int | None = None
    gradient_accumulation: int
    max_length: int
    lora: LoraSpec | None
    seeds: list[int]
    patience: int | None = None
    precision: Literal["auto", "bf16", "fp32"]
    checkpoint_steps: int
    out: Path


class SeedResult(JobModel):
    """How training with one seed ended."""

    seed: int
    steps: int
    best_step: int
    validation_loss: float | None


class TrainResult(JobModel):
    """What training says of itself; no timings (they are in `measurements`). The losses are of the kept seed."""

    rows_trained: int
    rows_over_length: int
    over_length_ids: list[str] = Field(description="prompt ids, at most 1,000 listed")
    rows_without_target: int = Field(0, description="no human reference, or no captured logits for their ids")
    without_target_ids: list[str] = Field([], description="prompt ids, at most 1,000 listed")
    rows_validated: int = 0
    seed: int = 17
    seeds: list[SeedResult] = []
    best_step: int = Field(0, description="the optimiser step whose weights were kept")
    validation_measure: Literal["nll", "full_kl", "sparse_kl", "cross_entropy", "on_policy"] = Field(
        "nll",
        description="what the validation loss is, in nats a token: negative log-likelihood, full-vocabulary forward "
        "KL, its lower bound from the stored most likely tokens, the cross-entropy with drawn tokens, or the "
        "divergence on the student's own answers",
    )
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
    """One model to measure or to try."""

    name: str = Field(min_length=1, description="Free text, as progress and `distill try` call it.")
    model: ModelRef
    dtype: Dtype
    generate: bool = Field(description="False for the teacher: its stored answers are its predictions; it is timed.")


class Prediction(JobModel):
    """What is to be found out of one model; it depends on no other model of the job but the teacher."""

    key: str = Field(pattern=r"^[0-9a-f]+$", description="Names its folder below the job's `out`.")
    model: PredictModel
    max_length: int | None = Field(None, description="Longest sequence it reads teacher-forced; null: no limit.")


class PredictJob(JobModel):
    """Greedy answers, and teacher-forced agreement with the teacher's, on held-out rows.

    `rows`: DATASET columns of the test rows, and `teacher_messages`, the conversation as the teacher read it.
    `train_rows`: the training Parquet, for the most-frequent-token and bigram baselines.
    Publishes a folder `<key>` for each prediction as soon as it is done: `generated.parquet` (GENERATED columns),
    `fidelity.parquet` (FIDELITY columns) and result.json (ModelResult).
    The folder of a teacher, which is timed only, has `baselines.parquet` (BASELINE columns) instead of both.
    result.json of the job itself is a PredictResult.
    """

    kind: Literal["predict"] = "predict"
    predictions: list[Prediction]
    teacher: PredictModel | None = Field(description="The local teacher; None for a hosted one.")
    rows: Path
    train_rows: Path
    max_tokens: int
    batch_size: int
    read_answers: bool = Field(True, description="Whether models also read the teacher's answers: `fidelity.parquet`.")
    out: Path


class ModelResult(JobModel):
    """Size and speed of one model."""

    parameters: int
    checkpoint_bytes: int
    batch_size: int
    rows_over_length: int = Field(description="rows without measures per token, for they are over `max_length`")
    measurements: dict[str, float] = Field(
        description="answers, seconds, generated_tokens, tokens_per_second, peak_memory_bytes (of the worker so far)"
    )


class PredictResult(JobModel):
    """What a whole job did."""

    keys: list[str]
    peak_memory_bytes: float


class HarnessRun(JobModel):
    """One model to measure on tasks of lm-evaluation-harness."""

    key: str = Field(pattern=r"^[0-9a-f]+$", description="Names its folder below the job's `out`.")
    model: PredictModel


class HarnessJob(JobModel):
    """Tasks of lm-evaluation-harness, offline and without its caches.

    `tasks`: task YAML files. `folder`: where relative paths of data files in them start.
    Publishes a folder `<key>` for each model as soon as it is done: `samples.parquet` (SAMPLE columns) and result.json
    (HarnessResult). result.json of the job itself lists the keys.
    """

    kind: Literal["harness"] = "harness"
    models: list[HarnessRun]
    tasks: list[Path]
    folder: Path
    limit: int | None
    num_fewshot: int | None
    apply_chat_template: bool
    batch_size: int
    out: Path


class HarnessScore(JobModel):
    """What one model reached in one metric of one task, as the harness computes it."""

    task: str
    task_version: str | None = Field(description="The task's `metadata.version`.")
    shots: int
    metric: str
    filter: str
    higher_is_better: bool | None
    value: float | None = Field(description="None where it is not finite.")
    stderr: float | None
    n: int = Field(description="Rows that have the metric.")
    is_mean: bool = Field(description="Whether the value is the mean of the rows' scores; else rows have none.")


class HarnessResult(JobModel):
    """What one model reached."""

    harness: str = Field(description="Version of lm-evaluation-harness.")
    scores: list[HarnessScore]


class EmbedJob(JobModel):
    """How alike texts are: cosines of the mean-pooled last hidden states of a model.

    `pairs`: Parquet with `left` and `right`, texts.
    Writes `similarities.parquet`: the same rows with `similarity`, from 0 to 1.
    """

    kind: Literal["embed"] = "embed"
    model: ModelRef
    pairs: Path
    out: Path


class TryJob(JobModel):
    """One prompt, answered by several models (`distill try`); result.json maps each name to its answer."""

    kind: Literal["try"] = "try"
    models: list[PredictModel]
    messages: list[dict[str, str]]
    teacher_messages: list[dict[str, str]]
    max_tokens: int
    out: Path


Job = Annotated[
    GenerateJob | CaptureJob | TrainJob | PredictJob | HarnessJob | EmbedJob | TryJob, Field(discriminator="kind")
]


class ProgressLine(JobModel):
    """One line of progress.jsonl."""

    stage: str
    done: int
    total: int
    unit: str
    metrics: dict[str, float] = {}
