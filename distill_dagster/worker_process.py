"""Starts the worker on a job and follows it: progress, finished shards, and its error as one of ours."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

from distill_dagster import errors
from distill_dagster.jobs import (
    ERROR_FILE,
    PROGRESS_FILE,
    CaptureJob,
    EmbedJob,
    GenerateJob,
    HarnessJob,
    PredictJob,
    ProgressLine,
    TrainJob,
    TryJob,
)
from distill_dagster.progress import Progress, report
from distill_dagster.storage import write_json

POLL_S = 0.25

Launch = Callable[[Path], None]
"""Runs `python -m distill_dagster.worker JOB.json` to its end; raises WorkerError when it fails."""


def worker_command(job_file: Path) -> list[str]:
    """The command line of the worker."""
    return [sys.executable, "-m", "distill_dagster.worker", str(job_file)]


def launch_subprocess(job_file: Path) -> None:
    """Runs the worker as a plain child process, for use outside Dagster."""
    done = subprocess.run(worker_command(job_file), check=False, env=os.environ.copy())
    if done.returncode:
        raise errors.WorkerError(f"the worker ended with code {done.returncode}")


def no_launch(job_file: Path) -> None:
    """For whoever needs a teacher's identity and must never start it."""
    raise errors.WorkerError(f"{job_file}: no worker may be started here")


def run_job(
    job: GenerateJob | CaptureJob | TrainJob | PredictJob | HarnessJob | EmbedJob | TryJob,
    launch: Launch,
    on_poll: Callable[[], object] | None = None,
) -> None:
    """Runs a job in the worker, reporting its progress.

    Args:
        job: its `out` folder holds the job file, the progress and the results.
        launch: how the worker is started.
        on_poll: called while the worker runs and once after, to take over what it has finished.

    Raises:
        DistillError: the error the worker named.
        WorkerError: it ended otherwise.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / ERROR_FILE).unlink(missing_ok=True)
    (job.out / PROGRESS_FILE).unlink(missing_ok=True)
    job_file = job.out / "job.json"
    write_json(job_file, job.model_dump(mode="json"))
    follower = _Follower(job.out / PROGRESS_FILE, on_poll)
    follower.start()
    try:
        launch(job_file)
    except errors.WorkerError:
        raise_worker_error(job.out)
        raise
    finally:
        follower.finish()


def raise_worker_error(out: Path) -> None:
    """Raises the error that the worker left in its folder, if it did."""
    path = out / ERROR_FILE
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = getattr(errors, content["error"], errors.WorkerError)
        raise kind(content["message"])


class _Follower:
    """A thread that reads progress and takes over shards while the launching thread waits for the worker."""

    def __init__(self, progress_file: Path, on_poll: Callable[[], object] | None) -> None:
        self._progress_file = progress_file
        self._on_poll = on_poll
        self._position = 0
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._follow,), name="worker progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Waits for the last round and raises what went wrong in any."""
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _follow(self) -> None:
        try:
            while not self._stop.wait(POLL_S):
                self._round()
            self._round()
        except BaseException as error:
            self._failure = error

    def _round(self) -> None:
        if self._on_poll:
            self._on_poll()
        if not self._progress_file.exists():
            return
        with self._progress_file.open(encoding="utf-8") as lines:
            lines.seek(self._position)
            text = lines.read()
        whole, _, _ = text.rpartition("\n")
        if whole:
            self._position += len(whole.encode()) + 1
            for line in whole.split("\n"):
                said = ProgressLine.model_validate_json(line)
                report(Progress(said.stage, said.done, said.total, said.unit, said.metrics))
