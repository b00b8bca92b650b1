"""`distill run`: decides from disk whether anything is due before it loads Dagster, then runs it with progress."""

import logging
import time
import warnings
from pathlib import Path

from rich.console import Console

from distill_dagster.commands.terminal import shown_progress
from distill_dagster.plan import Request, is_anything_due
from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import make_teacher
from distill_dagster.worker_process import no_launch


def run_distillation(distillation: Distillation, request: Request) -> int:
    """Runs what is due; returns the exit code (0 done or nothing to do, 1 failed)."""
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    marker = run_marker(distillation)
    if not marker.exists() and not is_anything_due(distillation, make_teacher(distillation, no_launch), request):
        console.print(f"{distillation.name}: nothing to do; everything is up to date ({_seconds(started)})")
        return 0
    return _run(distillation, request, console, started, marker)


def run_marker(distillation: Distillation) -> Path:
    """A file that is there while a run is under way, and after one that was killed."""
    return distillation.files.root / ".work" / "running"


def _run(distillation: Distillation, request: Request, console: Console, started: float, marker: Path) -> int:
    from distill_dagster.graph.instance_home import open_instance
    from distill_dagster.graph.run import Runner

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=".*in preview", module="dagster")
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    with open_instance(distillation.project) as instance, shown_progress(console):
        outcome = Runner(distillation, instance, lambda text: console.print(f"{distillation.name}: {text}")).run(
            request
        )
    marker.unlink(missing_ok=True)
    for run_id in outcome.dead_runs:
        console.print(f"{distillation.name}: run {run_id} was killed earlier; it is now marked failed")
    if outcome.failure is not None:
        console.print(f"error: {outcome.failure}", style="red", markup=False)
        console.print(
            f"{distillation.name}: stopped after {_seconds(started)}; what is finished is kept, run again to go on"
        )
        return 1
    done = f"{len(outcome.done)} assets made" if outcome.done else "nothing to do; everything is up to date"
    console.print(f"{distillation.name}: {done} ({_seconds(started)})")
    return 0


def _seconds(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.1f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
