"""Progress on a terminal: a bar per stage, or plain lines where the output is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from distill_dagster.progress import Progress, listening

LINE_INTERVAL_S = 15.0
SECONDS_LEFT = "seconds_left"
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
        _TimeLeft(),
        TextColumn("{task.fields[metrics]}"),
        console=console,
    )
    tasks: dict[str, object] = {}

    def show(progress: Progress) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(
                _label(progress), total=progress.total, unit="", metrics="", seconds_left=None
            )
        bars.update(
            tasks[progress.stage],  # type: ignore[arg-type]
            completed=progress.done,
            total=progress.total,
            unit=progress.unit,
            metrics=_metrics(progress),
            seconds_left=progress.metrics.get(SECONDS_LEFT),
        )

    with bars, listening(show):
        yield


class _TimeLeft(TimeRemainingColumn):
    """The stage's own estimate where it gives one; rich's assumes that all units take equally long and come evenly."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds_left"]
        if seconds is None or task.finished:
            return super().render(task)
        return Text(duration(seconds), style="progress.remaining")


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
            left = progress.metrics.get(SECONDS_LEFT)
            if left is not None and progress.done < progress.total:
                line = f"{line}  left {duration(left)}"
            sys.stderr.write(line.rstrip() + "\n")
            sys.stderr.flush()


def _label(progress: Progress) -> str:
    return LABELS.get(progress.stage, progress.stage.replace("_", " "))


def _metrics(progress: Progress) -> str:
    shown = {name: value for name, value in progress.metrics.items() if name != SECONDS_LEFT}
    named = ((SHORT.get(name, name.replace("_", " ")), value) for name, value in shown.items())
    return "  ".join(f"{name} {value:.4g}" for name, value in named)


def duration(seconds: float) -> str:
    """Seconds as one would say them, no more exact than an estimate is: `40 s`, `3 min`, `2 h 5 min`, `14 h`, `3 d`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} d"
