"""The worker's half of an evaluation: greedy answers of each model, and how it follows the teacher's."""

import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.fidelity import TeacherStates, measure_baselines, measure_model, read_teacher
from distill_dagster.evaluation.prediction_files import BASELINES_FILE, FIDELITY_FILE, GENERATED_FILE
from distill_dagster.evaluation.token_baselines import count_tokens
from distill_dagster.jobs import RESULT_FILE, ModelResult, Prediction, PredictJob, PredictModel, PredictResult, TryJob
from distill_dagster.process import peak_memory_bytes
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import new_folder, write_json
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.local.generation import Answer, StopReason, generate

# the teacher's answers are stored already: some are made again for its speed on this machine
TIMED_ROWS = 32
GENERATED_SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "prediction": pl.String(),
    "tokens": pl.Int32(),
    "stopped": pl.Boolean(),
}


def run_predict(job: PredictJob, progress: ProgressWriter) -> PredictResult:
    """Makes each prediction of the job, one model in memory at a time beside the teacher, and publishes it when done.

    Raises:
        EvaluationError: a model cannot be loaded, or there is no row to measure on.
    """
    rows = pl.read_parquet(job.rows)
    if rows.is_empty():
        raise EvaluationError(f"{job.rows}: no held-out rows to evaluate on; raise prompts.split.test")
    job.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.out, prefix="teacher-") as scratch:
        states = _teacher_states(job, rows, Path(scratch), progress)
        for prediction in job.predictions:
            with new_folder(job.out / prediction.key) as folder:
                result = _predict(job, prediction, rows, states, folder, progress)
                write_json(folder / RESULT_FILE, result.model_dump(mode="json"))
            gc.collect()
    return PredictResult(keys=[one.key for one in job.predictions], peak_memory_bytes=float(peak_memory_bytes()))


def run_try(job: TryJob) -> dict[str, Any]:
    """Each model's answer to one conversation; the teacher reads its own form of it. Models are loaded one by one."""
    answers = {}
    for model in job.models:
        chat = _load(model)
        messages = job.teacher_messages if model.name == "teacher" else job.messages
        [answer] = generate(chat, [chat.encode(messages)], max_tokens=job.max_tokens)
        answers[model.name] = answer.text
        del chat
        gc.collect()
    return {"answers": answers}


def generate_rows(
    chat: ChatModel, name: str, rows: pl.DataFrame, job: PredictJob, progress: ProgressWriter
) -> tuple[pl.DataFrame, dict[str, float]]:
    """Greedy answers as GENERATED rows, and how fast they came; rows with the same prompt are answered once."""
    texts = rows["messages"].unique(maintain_order=True).to_list()
    queue = sorted(((chat.encode(json.loads(text)), text) for text in texts), key=lambda item: (-len(item[0]), item[1]))
    answers: dict[str, Answer] = {}
    started = time.monotonic()
    for start in range(0, len(queue), job.batch_size):
        batch = queue[start : start + job.batch_size]
        found = generate(chat, [prompt for prompt, _ in batch], max_tokens=job.max_tokens)
        answers |= {text: answer for (_, text), answer in zip(batch, found, strict=True)}
        progress.report(f"answers of {name}", len(answers), len(queue), "prompts")
    seconds = time.monotonic() - started
    records = [
        (prompt_id, sample, answer.text, len(answer.token_ids), answer.stop_reason is StopReason.END_TURN)
        for prompt_id, sample, text in rows.select("prompt_id", "sample", "messages").iter_rows()
        for answer in (answers[text],)
    ]
    tokens = sum(len(answer.token_ids) for answer in answers.values())
    speed = {
        "answers": float(len(answers)),
        "seconds": seconds,
        "generated_tokens": float(tokens),
        "tokens_per_second": tokens / seconds,
    }
    return pl.DataFrame(records, schema=GENERATED_SCHEMA, orient="row").sort("prompt_id", "sample"), speed


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of a model folder's weights; 0 for a model that is not a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _teacher_states(
    job: PredictJob, rows: pl.DataFrame, scratch: Path, progress: ProgressWriter
) -> TeacherStates | None:
    if job.teacher is None:
        return None

    def told(done: int, total: int) -> None:
        progress.report("the teacher reads its answers", done, total, "rows")

    return read_teacher(_load(job.teacher), rows, scratch / "hidden", told)


def _predict(
    job: PredictJob,
    prediction: Prediction,
    rows: pl.DataFrame,
    states: TeacherStates | None,
    folder: Path,
    progress: ProgressWriter,
) -> ModelResult:
    """Fills the folder of one prediction but for its result, which is returned."""
    model = prediction.model
    too_long = 0
    if model.generate:
        chat = _load(model)
        generated, speed = generate_rows(chat, model.name, rows, job, progress)
        generated.write_parquet(folder / GENERATED_FILE)
        if job.read_answers:
            too_long = _measure(states, chat, prediction, rows, folder, progress)
    else:
        chat = states.teacher if states is not None else _load(model)
        timed = rows.head(TIMED_ROWS).with_columns(messages="teacher_messages")
        _, speed = generate_rows(chat, model.name, timed, job, progress)
        counted = count_tokens(pl.read_parquet(job.train_rows, columns=["completion_ids"])["completion_ids"])
        if states is not None and counted is not None:
            measure_baselines(states, counted).write_parquet(folder / BASELINES_FILE)
    return ModelResult(
        parameters=chat.model.num_parameters(),
        checkpoint_bytes=checkpoint_bytes(Path(chat.source)),
        batch_size=job.batch_size,
        rows_over_length=too_long,
        measurements=speed | {"peak_memory_bytes": float(peak_memory_bytes())},
    )


def _measure(
    states: TeacherStates | None,
    chat: ChatModel,
    prediction: Prediction,
    rows: pl.DataFrame,
    folder: Path,
    progress: ProgressWriter,
) -> int:
    """Writes the fidelity of a model; returns the rows left out as too long."""
    name = prediction.model.name

    def told(done: int, total: int) -> None:
        progress.report(f"fidelity of {name}", done, total, "rows")

    frame, too_long = measure_model(states, chat, rows, prediction.max_length, told)
    frame.write_parquet(folder / FIDELITY_FILE)
    return too_long


def _load(model: PredictModel) -> ChatModel:
    return load_chat_model(model.model, model.dtype, EvaluationError)
