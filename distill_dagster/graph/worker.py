"""Runs the worker as a Dagster Pipes subprocess, its progress shown as observations of the asset."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import dagster as dg

from distill_dagster.errors import WorkerError
from distill_dagster.progress import Progress, hearing, listening
from distill_dagster.worker_process import Launch, raise_worker_error, worker_command

OBSERVATION_INTERVAL_S = 20.0


class _LaunchContext:
    """The step's context as Pipes sees it, without its assets.

    Pipes makes a step that has assets yield a result for each of them. Ours log one materialisation per partition
    instead, and the worker reports files, not assets.
    """

    has_assets_def = False

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context.op_execution_context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def pipes_launch(context: dg.AssetExecutionContext) -> Launch:
    """Launches the worker through Pipes: its logs reach the run, and a cancelled run ends it."""
    seen_by_pipes = cast(dg.OpExecutionContext, _LaunchContext(context))

    def launch(job_file: Path) -> None:
        try:
            dg.PipesSubprocessClient().run(command=worker_command(job_file), context=seen_by_pipes)
        except Exception as error:  # Pipes has its own class for this, which Dagster does not export
            raise_worker_error(job_file.parent)
            raise WorkerError(f"the worker failed ({error}); its output is in the run's log") from error

    return launch


@contextmanager
def observing(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Iterator[None]:
    """Logs progress as observations of `key`, at most every 20 s and at the end of each stage, and notices as lines."""
    last = 0.0

    def observe(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if progress.done < progress.total and now - last < OBSERVATION_INTERVAL_S:
            return
        last = now
        metadata: dict[str, dg.MetadataValue] = {
            "stage": dg.MetadataValue.text(progress.stage),
            "done": dg.MetadataValue.int(progress.done),
            "total": dg.MetadataValue.int(progress.total),
            "unit": dg.MetadataValue.text(progress.unit),
        }
        metadata |= {name: dg.MetadataValue.float(value) for name, value in progress.metrics.items()}
        context.log_event(dg.AssetObservation(key, metadata=metadata))

    with listening(observe), hearing(context.log.info):
        yield
