"""Rows put aside on disk under names, to be had back a name at a time, so that memory stays flat."""

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from distill_dagster.errors import StorageError

BUFFER_BYTES = 96 * 1024 * 1024


class Spill:
    """Frames by name. Few rows stay in memory; more go to files in the system's folder for temporary ones.

    The files have no name, so that nothing is left of them, whatever becomes of this process.
    """

    def __init__(self, schema: Mapping[str, Any], most_bytes: int | None = None) -> None:
        """Args:
        schema: Polars types of the columns.
        most_bytes: how much is held before it goes to disk; default: BUFFER_BYTES.
        """
        self._nothing = pl.DataFrame(schema=dict(schema))
        self._most_bytes = BUFFER_BYTES if most_bytes is None else most_bytes
        self._held: dict[str, list[pl.DataFrame]] = defaultdict(list)
        self._held_bytes = 0
        self._written: dict[str, list[tuple[pa.RecordBatchFileReader, int]]] = defaultdict(list)

    def add(self, rows: Mapping[str, pl.DataFrame]) -> None:
        """Takes further rows, by name.

        Raises:
            StorageError: the folder for temporary files has no room, or is not there.
        """
        for name, frame in rows.items():
            if frame.height:
                self._held[name].append(frame.select(self._nothing.columns))
                self._held_bytes += int(frame.estimated_size())
        if self._held_bytes > self._most_bytes:
            self._write()

    def of(self, name: str) -> pl.DataFrame:
        """All rows of a name, in the order in which they came."""
        written = [_frame(reader.get_batch(number)) for reader, number in self._written.get(name, ())]
        every: pl.DataFrame = pl.concat([self._nothing, *written, *self._held.get(name, ())])
        return every

    def _write(self) -> None:
        try:
            reader, numbers = self._written_file()
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: rows cannot be put aside there ({error.strerror or error}); "
                "set TMPDIR to a folder with more room"
            ) from None
        for name, own in numbers.items():
            self._written[name] += [(reader, number) for number in own]
        self._held.clear()
        self._held_bytes = 0

    def _written_file(self) -> tuple[pa.RecordBatchFileReader, dict[str, list[int]]]:
        """A file of all that is held, and which of its batches are whose."""
        schema = self._nothing.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its reader
        numbers: dict[str, list[int]] = {}
        count = 0
        with pa.ipc.new_file(file, schema) as writer:
            for name, frames in self._held.items():
                batches = pl.concat(frames, rechunk=True).to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()
                for batch in batches:
                    writer.write_batch(batch)
                numbers[name] = list(range(count, count + len(batches)))
                count += len(batches)
        file.seek(0)
        return pa.ipc.open_file(file), numbers


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame
