"""Brings together what a training learns from: tokenised rows and the targets that belong to them."""

from dataclasses import dataclass

import polars as pl
from transformers import PreTrainedTokenizerBase

from distill_dagster.errors import LogitsError, StudentError
from distill_dagster.jobs import LogitsInput, TrainJob
from distill_dagster.logits.head_file import load_head
from distill_dagster.logits.sparse import ids_hash
from distill_dagster.logits.targets_file import TargetsFile, build_targets_file
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.students.losses import Divergence, LossSettings
from distill_dagster.students.objectives import CompletionObjective, LogitObjective, Objective
from distill_dagster.students.tokens import TokenisedRows, tokenise
from distill_dagster.teachers.local.chat_model import load_tokenizer, same_tokens, token_differences

STAGE = "reading logits"


@dataclass(frozen=True)
class Learning:
    """Rows and what is learnt from them. `objective` is None for on_policy, whose targets a teacher in memory gives."""

    train: TokenisedRows
    validation: TokenisedRows
    objective: Objective | None

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        return not self.validation.rows.is_empty()

    @property
    def measure(self) -> str:
        """What the validation loss is."""
        return "on_policy" if self.objective is None else self.objective.measure


def prepare_learning(job: TrainJob, tokenizer: PreTrainedTokenizerBase, progress: ProgressWriter) -> Learning:
    """Tokenises the rows, and reads the captured logits where the objective is `logit`.

    Raises:
        StudentError: no training row fits, or the student's tokens are not the teacher's where they have to be.
        LogitsError: captured logits are missing, torn, or of another teacher.
    """
    stored = _shares_tokens(job, tokenizer)
    train, validation = (
        tokenise(
            pl.read_parquet(job.dataset / f"{split}.parquet"),
            tokenizer,
            use_stored_ids=stored,
            max_length=job.max_length,
            targets=job.targets,
        )
        for split in ("train", "validation")
    )
    if job.logits is not None:
        return _with_logits(job, job.logits, train, validation, len(tokenizer), progress)
    _require_rows(job, train)
    return Learning(train, validation, None if job.objective == "on_policy" else CompletionObjective())


def _shares_tokens(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the teacher's token ids mean the same to the student.

    Raises:
        StudentError: they do not, and the objective compares distributions over them.
    """
    if job.teacher is None:
        return False
    teacher = load_tokenizer(job.teacher, StudentError)
    if same_tokens(teacher, tokenizer):
        return True
    if job.objective != "sft":
        differences = "; ".join(token_differences(teacher, tokenizer)) or "they end a turn differently"
        raise StudentError(
            f"objective {job.objective} compares distributions over the same tokens, and this student's tokenizer "
            f"differs from its teacher's: {differences}; take a base of the teacher's family, or write `objective: sft`"
        )
    return False


def _with_logits(
    job: TrainJob,
    source: LogitsInput,
    train: TokenisedRows,
    validation: TokenisedRows,
    vocabulary: int,
    progress: ProgressWriter,
) -> Learning:
    places = pl.read_parquet(source.rows)
    train, train_places = match_targets(train, places)
    validation, validation_places = match_targets(validation, places)
    _require_rows(job, train)
    if validation_places["has_hidden"].any():
        with_hidden = validation_places["has_hidden"]
        validation = TokenisedRows(
            validation.rows.filter(with_hidden), validation.over_length, validation.without_target
        )
        validation_places = validation_places.filter(with_hidden)
    measured_at = 1.0 if 1.0 in source.identity.temperatures else job.temperature
    files = []
    for name, wanted, temperature in (
        ("train", train_places, job.temperature),
        ("validation", validation_places, measured_at),
    ):
        folder = job.out / "targets" / name
        build_targets_file(
            folder,
            wanted,
            source.shards,
            source.identity,
            vocabulary,
            temperature,
            lambda done, total: progress.report(STAGE, done, total, "sequences"),
        )
        files.append(TargetsFile.open(folder))
    settings = LossSettings(
        Divergence(job.divergence),
        beta=job.beta,
        temperature=job.temperature,
        t_squared=job.t_squared,
        ce_weight=job.ce_weight,
    )
    kept = load_head(source.shards) if validation_places["has_hidden"].any() else None
    return Learning(train, validation, LogitObjective(settings, files[0], files[1], kept, vocabulary))


def match_targets(rows: TokenisedRows, places: pl.DataFrame) -> tuple[TokenisedRows, pl.DataFrame]:
    """The rows whose very token ids were captured, and where their sequences lie, in the same order.

    A row that was edited since, or whose ids do not spell its completion, has none; it is left out and listed.

    Raises:
        LogitsError: a row of the dataset is not captured at all.
    """
    known = rows.rows.join(places, on=["prompt_id", "sample"], how="left", maintain_order="left")
    absent = known.filter(pl.col("ids_hash").is_null())
    if not absent.is_empty():
        raise LogitsError(
            f"{absent.height} of {known.height} rows have no captured logits, prompt {absent['prompt_id'][0]!r} "
            "for one; materialise `teacher_logits` again, it captures what is missing"
        )
    own = [ids_hash(rows.completion(position)) for position in range(known.height)]
    fits = pl.Series(own, dtype=pl.String) == known["ids_hash"]
    others = known.filter(~fits)["prompt_id"].to_list()
    kept = TokenisedRows(rows.rows.filter(fits), rows.over_length, [*rows.without_target, *others])
    return kept, known.filter(fits).select("request_key", "ids_hash", "shard", "row", "has_hidden")


def _require_rows(job: TrainJob, train: TokenisedRows) -> None:
    if train.rows.is_empty():
        raise StudentError(
            f"no row to train on: {len(train.over_length)} are longer than max_length, {job.max_length} tokens, and "
            f"{len(train.without_target)} have nothing to learn from; raise max_length, or widen the prompts and the "
            "curation"
        )
