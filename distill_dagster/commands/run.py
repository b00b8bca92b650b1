"""`distill run`: decides from disk whether anything is due before it loads Dagster, then runs it with progress."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console

from distill_dagster.commands.terminal import shown_progress
from distill_dagster.plan import Asset, Request, is_anything_due
from distill_dagster.progress import hearing
from distill_dagster.project import Distillation
from distill_dagster.storage import DistillationFolder
from distill_dagster.teachers.outputs import make_teacher
from distill_dagster.worker_process import no_launch

WITHHELD = 3


def run_distillation(distillation: Distillation, request: Request, *, wait: bool = True) -> int:
    """Runs what is due; returns the exit code: 0 done or nothing to do, 1 failed, 3 a release is withheld.

    Args:
        wait: whether to stay until provider batches have ended; else they are only sent, and the sensor of
            `distill ui` or the next run collects them.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    started = time.monotonic()
    if not _unfinished(distillation) and not is_anything_due(
        distillation, make_teacher(distillation, no_launch), request
    ):
        console.print(f"{distillation.name}: nothing to do; everything is up to date ({_seconds(started)})")
        return _say_withheld(console, _withheld(distillation, request))
    return _run(distillation, request, console, started, wait)


def _run(distillation: Distillation, request: Request, console: Console, started: float, wait: bool) -> int:
    from distill_dagster.graph.instance_home import open_instance
    from distill_dagster.graph.run import Runner

    def say(text: str, style: str | None = None) -> None:
        console.print(f"{distillation.name}: {text}", style=style)

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=".*in preview", module="dagster")
    with (
        _marked(distillation),
        open_instance(distillation.project) as instance,
        shown_progress(console),
        hearing(say),
    ):
        outcome = Runner(distillation, instance, say, wait=wait).run(request)
    for run_id in outcome.dead_runs:
        say(f"run {run_id} was killed earlier; it is now marked failed")
    if outcome.failure is not None:
        console.print(f"error: {outcome.failure}", style="red")
        say(f"stopped after {_seconds(started)}; what is finished is kept, run again to go on")
        return 1
    if outcome.waiting:
        names = ", ".join(outcome.waiting)
        say(f"answers of {names} are in provider batches; `distill ui` collects them, or the next `distill run`")
    done = f"{len(outcome.done)} assets made" if outcome.done else "nothing to do; everything is up to date"
    say(f"{done} ({_seconds(started)})")
    return _say_withheld(console, outcome.withheld)


def _withheld(distillation: Distillation, request: Request) -> dict[str, str]:
    if not request.wants(Asset.RELEASE) or distillation.spec.evaluation.gate is None:
        return {}
    from distill_dagster.releases.admission import withheld  # loads SciPy, for those who have a gate only

    found = withheld(distillation, request.student_names(distillation))
    return {name: str(error) for name, error in found.items()}


def _say_withheld(console: Console, why: Mapping[str, str]) -> int:
    """Says which releases are withheld; returns the exit code."""
    for text in why.values():
        console.print(text, style="yellow")
    return WITHHELD if why else 0


def _markers(files: DistillationFolder) -> Path:
    return files.root / ".work" / "running"


def running_processes(files: DistillationFolder) -> list[int]:
    """The processes that run a distillation now on this machine, by `distill run`."""
    return sorted(int(mark.name) for mark in _markers(files).glob("*") if psutil.pid_exists(int(mark.name)))


def _unfinished(distillation: Distillation) -> bool:
    """Whether a run of this distillation was killed, or is under way: Dagster has to be asked then."""
    return any(_markers(distillation.files).glob("*"))


@contextmanager
def _marked(distillation: Distillation) -> Iterator[None]:
    """Leaves a file that says so if this process dies in the block; clears those of processes that did."""
    folder = _markers(distillation.files)
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / str(os.getpid())
    mine.touch()
    yield
    for marker in folder.iterdir():
        if marker == mine or not psutil.pid_exists(int(marker.name)):
            marker.unlink(missing_ok=True)


def _seconds(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.1f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60)} s"
