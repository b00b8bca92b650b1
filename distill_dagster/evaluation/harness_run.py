"""The worker's half of the harness: tasks of lm-evaluation-harness on local models, offline and without its caches."""

import contextlib
import gc
import io
import logging
import math
import random
import shutil
import sys
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import torch

from distill_dagster.errors import DistillError, EvaluationError
from distill_dagster.evaluation.harness_files import SAMPLES_FILE, SAMPLES_SCHEMA, harness_version
from distill_dagster.jobs import RESULT_FILE, HarnessJob, HarnessResult, HarnessScore, PredictModel
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import new_folder, write_json
from distill_dagster.teachers.local.chat_model import load_chat_model

SEED = 1234
# behind the harness's own standard errors where there is no formula; its default takes minutes a task
STDERR_RESAMPLES = 1000
PREPARED_DATA = "data"


def run_harness_job(job: HarnessJob, progress: ProgressWriter) -> dict[str, Any]:
    """Measures each model of the job on every task, one model in memory at a time, and publishes it when done.

    Raises:
        EvaluationError: the harness is not installed, a model cannot be loaded, or a task cannot be run.
    """
    version = harness_version()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with _isolated(job):
        for run in job.models:
            with new_folder(job.out / run.key) as folder:
                scores, samples = _measure(run.model, job, progress)
                samples.write_parquet(folder / SAMPLES_FILE)
                result = HarnessResult(harness=version, scores=scores)
                write_json(folder / RESULT_FILE, result.model_dump(mode="json"))
            gc.collect()
    return {"keys": [run.key for run in job.models]}


def _measure(model: PredictModel, job: HarnessJob, progress: ProgressWriter) -> tuple[list[HarnessScore], pl.DataFrame]:
    """Scores of one model, and the rows behind them (SAMPLES_SCHEMA).

    Every task is a call of its own, so that its draws do not depend on the tasks before it.
    """
    lm = _language_model(model, job.batch_size)
    scores, rows = [], []
    for done, path in enumerate(job.tasks):
        progress.report(f"harness: {model.name}", done, len(job.tasks), "tasks")
        with _explained(path), _silent():
            task, results = _evaluate(lm, path, job)
            scores += _scores(task, results)
            rows += _rows(results)
    progress.report(f"harness: {model.name}", len(job.tasks), len(job.tasks), "tasks")
    return scores, pl.DataFrame(rows, schema=SAMPLES_SCHEMA, orient="row")


def _language_model(model: PredictModel, batch_size: int) -> Any:
    """The harness's wrapper around a model as predictions load it; it ends a turn with the same tokens."""
    from lm_eval.models.huggingface import HFLM

    chat = load_chat_model(model.model, model.dtype, EvaluationError)
    if chat.model.generation_config is not None:
        chat.model.generation_config.eos_token_id = sorted(chat.stop_ids)
    return HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=batch_size, trust_remote_code=False)


def _evaluate(lm: Any, path: Path, job: HarnessJob) -> tuple[Any, dict[str, Any]]:
    """The task in a file, and the harness's results on it.

    Not through its `simple_evaluate`, which calls the same `evaluate` and asks git, the hub and the machine about
    themselves; and never with `use_cache`, whose key has no model in it, so that one is told another's answers.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    _seed()
    loaded = TaskManager(include_defaults=False).load([str(path)])
    [task] = loaded["tasks"].values()
    fixed: int | None = task.get_config("num_fewshot")
    asked = fixed if fixed == 0 or job.num_fewshot is None else job.num_fewshot
    task.set_config(key="num_fewshot", value=asked or 0)
    task.set_fewshot_seed(seed=SEED)
    results: dict[str, Any] = evaluate(
        lm=lm,
        task_dict=loaded,
        limit=job.limit,
        cache_requests=False,
        bootstrap_iters=STDERR_RESAMPLES,
        log_samples=True,
        apply_chat_template=job.apply_chat_template,
        fewshot_as_multiturn=job.apply_chat_template,
    )
    return task, results


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _scores(task: Any, results: dict[str, Any]) -> list[HarnessScore]:
    """What the harness reports of a task, a score for each metric and filter."""
    from lm_eval.api.metrics import mean

    name = task.task_name
    rows = _rows(results)
    reported, better = results["results"][name], results["higher_is_better"][name]
    version = results["versions"].get(name)
    scores = []
    for metric, filter_name in dict.fromkeys((row[1], row[2]) for row in rows):
        values = [row[4] for row in rows if (row[1], row[2]) == (metric, filter_name)]
        scores.append(
            HarnessScore(
                task=name,
                task_version=None if version in (None, "Yaml") else str(version),
                shots=int(results["n-shot"][name]),
                metric=metric,
                filter=filter_name,
                higher_is_better=better.get(metric),
                value=_number(reported[f"{metric},{filter_name}"]),
                stderr=_number(reported.get(f"{metric}_stderr,{filter_name}")),
                n=len(values),
                is_mean=None not in values and task.aggregation().get(metric, mean) is mean,
            )
        )
    return scores


def _rows(results: dict[str, Any]) -> list[tuple[str, str, str, int, float | None]]:
    """(task, metric, filter, doc_id, score) of every row; the score is None where it is no finite number."""
    return [
        (task, metric, sample["filter"], sample["doc_id"], _number(sample[metric]))
        for task, samples in results["samples"].items()
        for sample in samples
        for metric in sample["metrics"]
    ]


def _number(value: Any) -> float | None:
    plain = value.item() if isinstance(value, np.generic) else value
    return float(plain) if isinstance(plain, Real) and math.isfinite(plain) else None


@contextlib.contextmanager
def _isolated(job: HarnessJob) -> Iterator[None]:
    """Relative paths start at the job's folder, and whatever is prepared of the data goes with the job."""
    prepared = job.out / PREPARED_DATA
    before = datasets.config.HF_DATASETS_CACHE, sys.dont_write_bytecode
    datasets.config.HF_DATASETS_CACHE, sys.dont_write_bytecode = prepared, True
    try:
        with contextlib.chdir(job.folder):
            yield
    finally:
        datasets.config.HF_DATASETS_CACHE, sys.dont_write_bytecode = before
        shutil.rmtree(prepared, ignore_errors=True)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps the harness's bars and remarks to itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what the harness or a task's own functions raise into an error that names the task's file."""
    try:
        yield
    except (DistillError, RuntimeError):  # torch's own errors are RuntimeErrors
        raise
    except Exception as error:
        # A task's functions may raise anything, and the harness raises much.
        raise EvaluationError(f"{path}: the harness cannot run this task: {type(error).__name__}: {error}") from error
