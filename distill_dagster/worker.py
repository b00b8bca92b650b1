"""The worker process: `python -m distill_dagster.worker JOB.json` does one job that needs torch, and ends.

It writes into the job's `out` folder only: progress.jsonl as it goes, result.json at the end, and error.json for a
mistake that the user can mend. Exit codes: 0 done, 1 failed (traceback on stderr), 2 error.json says what to change,
142 the parent is gone, 143 ended by SIGTERM.

torch and transformers are imported only once the job is known to need them.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distill_dagster.errors import DistillError
from distill_dagster.jobs import (
    ERROR_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    CaptureJob,
    EmbedJob,
    GenerateJob,
    HarnessJob,
    Job,
    PredictJob,
    TrainJob,
    TryJob,
)
from distill_dagster.lifeline import Termination, exit_with_parent
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_json
from distill_dagster.unused_imports import leave_out_unused

MENDABLE = 2
PIPES_VARIABLE = "DAGSTER_PIPES_CONTEXT"
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

# For a HarnessJob; the libraries read it when they are imported.
OFFLINE = {
    "DISABLE_MULTIPROC": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Does the job named on the command line; returns the exit code."""
    exit_with_parent()
    termination = Termination()
    termination.install()
    parser = argparse.ArgumentParser(prog="python -m distill_dagster.worker", description=__doc__)
    parser.add_argument("job", type=Path, help="the job's JSON file")
    path: Path = parser.parse_args(arguments).job
    job = read_job(path)
    leave_out_unused(job)
    os.environ.update(QUIET)
    if isinstance(job, HarnessJob):
        os.environ.update(OFFLINE)
    warnings.simplefilter("ignore", FutureWarning)
    with _pipes() as say:
        say(f"{job.kind} begins in {job.out}")
        code = run(job, termination)
        say(f"{job.kind} {'is done' if code == 0 else f'ended with code {code}'}")
    return code


def read_job(path: Path) -> GenerateJob | CaptureJob | TrainJob | PredictJob | HarnessJob | EmbedJob | TryJob:
    """Parses a job file.

    Raises:
        ValidationError: it is no job.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(Job)
    job: Job = adapter.validate_json(path.read_bytes())
    return job


def run(
    job: GenerateJob | CaptureJob | TrainJob | PredictJob | HarnessJob | EmbedJob | TryJob, termination: Termination
) -> int:
    """Does a job and writes its result, or the error the user can mend; returns the exit code."""
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / ERROR_FILE).unlink(missing_ok=True)
    progress = ProgressWriter(job.out / PROGRESS_FILE)
    try:
        result = dispatch(job, progress, termination)
    except DistillError as error:
        write_json(job.out / ERROR_FILE, {"error": type(error).__name__, "message": str(error)})
        return MENDABLE
    finally:
        progress.close()
    write_json(job.out / RESULT_FILE, result)
    return 0


def dispatch(
    job: GenerateJob | CaptureJob | TrainJob | PredictJob | HarnessJob | EmbedJob | TryJob,
    progress: ProgressWriter,
    termination: Termination,
) -> dict[str, Any]:
    """Calls the function for the kind of job; returns the content of result.json."""
    match job:
        case GenerateJob(engine="vllm"):
            from distill_dagster.teachers.local import vllm_local

            return vllm_local.run_generate(job, progress)
        case GenerateJob():
            from distill_dagster.teachers.local.transformers_local import run_generate

            return run_generate(job, progress)
        case CaptureJob(server=None):
            from distill_dagster.logits.capture import run_capture

            return run_capture(job, progress)
        case CaptureJob():
            from distill_dagster.logits.server import run_server_capture

            return run_server_capture(job, progress)
        case TrainJob():
            from distill_dagster.students.train import run_train

            return run_train(job, progress, termination).model_dump(mode="json")
        case PredictJob():
            from distill_dagster.evaluation.predict import run_predict

            return run_predict(job, progress).model_dump(mode="json")
        case HarnessJob():
            from distill_dagster.evaluation.harness_run import run_harness_job

            return run_harness_job(job, progress)
        case EmbedJob():
            from distill_dagster.evaluation.embed import run_embed

            return run_embed(job, progress)
        case TryJob():
            from distill_dagster.evaluation.predict import run_try

            return run_try(job)


@contextmanager
def _pipes() -> Iterator[Callable[[str], None]]:
    """How to say a line to the run that launched this process through Dagster Pipes; to nobody where none did."""
    if PIPES_VARIABLE not in os.environ:
        yield lambda _line: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.log.info


if __name__ == "__main__":
    sys.exit(main())
