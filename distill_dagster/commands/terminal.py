"""Progress on a terminal: a bar per stage, or plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from distill_dagster.progress import Progress, listening

LINE_INTERVAL_S = 15.0
SHORT = {"tokens_per_second": "tok/s", "cost_usd": "$", "at_most_usd": "at most $"}
LABELS = {"teacher": "teacher answers", "teacher_outputs": "teacher answers"}


@contextmanager
def shown_progress(console: Console) -> Iterator[None]:
    """Shows all progress reported inside the block."""
    if console.is_terminal:
        with _bars(console):
            yield
    else:
        with listening(_Lines().show):
            yield


@contextmanager
def _bars(console: Console) -> Iterator[None]:
    bars = Bars(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=console,
    )
    tasks: dict[str, object] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(_label(progress), total=progress.total, unit="", metrics="")
        bars.update(
            tasks[progress.stage],  # type: ignore[arg-type]
            completed=progress.done,
            total=progress.total,
            unit=progress.unit,
            metrics=_metrics(progress),
        )

    with bars, listening(show):
        yield


class _Lines:
    """A line now and then, and one at the end of each stage."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        due = now - self._last.get(progress.stage, 0.0) >= LINE_INTERVAL_S
        if due or progress.done >= progress.total:
            self._last[progress.stage] = now
            line = f"  {_label(progress)}: {progress.done}/{progress.total} {progress.unit} {_metrics(progress)}"
            sys.stderr.write(line.rstrip() + "\n")
            sys.stderr.flush()


def _label(progress: Progress) -> str:
    return LABELS.get(progress.stage, progress.stage.replace("_", " "))


def _metrics(progress: Progress) -> str:
    named = ((SHORT.get(name, name.replace("_", " ")), value) for name, value in progress.metrics.items())
    return "  ".join(f"{name} {value:.4g}" for name, value in named)
