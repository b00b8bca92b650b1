"""The worker's jobs of Dagster runs, done in this process: that spares loading torch for each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill_dagster.lifeline import Termination
from distill_dagster.worker import read_job, run
from distill_dagster.worker_process import Launch, raise_worker_error


@contextmanager
def worker_in_process() -> Iterator[list[str]]:
    """Inside the block no worker is started; yields the kinds of the jobs, as they come."""
    kinds: list[str] = []

    def pipes_launch(_context: object) -> Launch:
        def launch(job_file: Path) -> None:
            job = read_job(job_file)
            kinds.append(job.kind)
            if run(job, Termination()):
                raise_worker_error(job_file.parent)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        for name in ("partitioned", "student", "evaluation"):
            patch.setattr(f"distill_dagster.graph.{name}.pipes_launch", pipes_launch)
        yield kinds
