"""The worker's half of an evaluation: greedy answers of student and base, and their fidelity to the local teacher."""

import gc
import json
import time
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.fidelity import measure_fidelity
from distill_dagster.evaluation.token_baselines import count_tokens
from distill_dagster.jobs import PredictJob, PredictModel, PredictResult, TryJob
from distill_dagster.process import peak_memory_bytes
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_file
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.local.generation import Answer, StopReason, generate

# the teacher's answers are stored already: some are made again for its speed on this machine
TIMED_ROWS = 32
GENERATED_SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "model": pl.String(),
    "prediction": pl.String(),
    "tokens": pl.Int32(),
    "stopped": pl.Boolean(),
}


def run_predict(job: PredictJob, progress: ProgressWriter) -> PredictResult:
    """Generates for every model that is to answer, then measures fidelity where the teacher is local.

    Raises:
        EvaluationError: a model cannot be loaded, or there is no row to measure on.
    """
    rows = pl.read_parquet(job.rows)
    if rows.is_empty():
        raise EvaluationError(f"{job.rows}: no held-out rows to evaluate on; raise prompts.split.test")
    chats: dict[str, ChatModel] = {}
    measurements: dict[str, dict[str, float]] = {}
    answers = [pl.DataFrame(schema=GENERATED_SCHEMA)]
    for model in job.models:
        chat = chats[model.name] = _load(model)
        if model.generate:
            frame, measurements[model.name] = generate_rows(chat, model.name, rows, job, progress)
            answers.append(frame)
        else:
            timed = rows.head(TIMED_ROWS).with_columns(messages="teacher_messages")
            _, measurements[model.name] = generate_rows(chat, model.name, timed, job, progress)
    generated = pl.concat(answers).sort("prompt_id", "sample", "model")
    write_file(job.out / "generated.parquet", generated.write_parquet)
    too_long = _fidelity(job, chats, rows, progress)
    measurements["worker"] = {"peak_memory_bytes": float(peak_memory_bytes()), "rows_over_length": float(too_long)}
    return PredictResult(
        parameters={name: chat.model.num_parameters() for name, chat in chats.items()},
        checkpoint_bytes={name: checkpoint_bytes(Path(chat.source)) for name, chat in chats.items()},
        measurements=measurements,
    )


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
        (prompt_id, sample, name, answer.text, len(answer.token_ids), answer.stop_reason is StopReason.END_TURN)
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
    return pl.DataFrame(records, schema=GENERATED_SCHEMA, orient="row"), speed


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of a model folder's weights; 0 for a model that is not a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _fidelity(job: PredictJob, chats: dict[str, ChatModel], rows: pl.DataFrame, progress: ProgressWriter) -> int:
    """Writes fidelity.parquet where the teacher is local and its token ids are known; returns rows left out."""
    if not job.teacher_is_local or "teacher" not in chats or rows["completion_ids"].null_count() == rows.height:
        return 0
    frame, too_long = measure_fidelity(
        teacher=chats["teacher"],
        models={name: chat for name, chat in chats.items() if name != "teacher"},
        baselines=count_tokens(pl.read_parquet(job.train_rows, columns=["completion_ids"])["completion_ids"]),
        rows=rows,
        max_length=job.max_length,
        on_progress=lambda done, total: progress.report("fidelity", done, total, "rows"),
    )
    write_file(job.out / "fidelity.parquet", frame.write_parquet)
    return too_long


def _load(model: PredictModel) -> ChatModel:
    return load_chat_model(model.model, model.dtype, EvaluationError)
