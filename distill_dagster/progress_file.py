"""How the worker tells the process that started it how far it is: one JSON line a report, in a file."""

from pathlib import Path

from distill_dagster.jobs import ProgressLine


class ProgressWriter:
    """Appends `ProgressLine`s to a file; every line is flushed at once, so that a reader can follow it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def report(self, stage: str, done: int, total: int, unit: str, **metrics: float) -> None:
        """One report: `done` of `total` units of a stage, with its measurements."""
        line = ProgressLine(stage=stage, done=done, total=total, unit=unit, metrics=metrics)
        self._file.write(line.model_dump_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
