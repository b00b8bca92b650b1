"""What training reads: the targets of its sequences, decoded once into flat files that are mapped into memory."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from distill_dagster.errors import LogitsError, StorageError
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.hashing import digest, frame_version
from distill_dagster.logits.packing import draws_tail, kept_ids, tail_to_half, to_half
from distill_dagster.logits.shards import read_sequences
from distill_dagster.logits.sparse import Draws, Floats, Sequence, TopK
from distill_dagster.storage import publish_file, read_json, write_file, write_json

MARKER_FILE = "targets.json"
PLACES_FILE = "places.npy"
_LAYOUT = 3
_NARROW_VOCABULARY = 1 << 16
_PLACE = np.dtype([(name, np.int64) for name in ("token", "tokens", "id", "tail", "hidden", "hidden_bytes")])
_NO_HIDDEN = -1

LongIds = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TargetsFile:
    """Sparse targets by position in the table that was asked for; random access, nothing held in memory.

    Attributes:
        identity: what they are captures of.
        vocabulary: the teacher's number of token ids.
        temperature: the one that log-probabilities and tails are at.
        places: [wanted], where each sequence starts in the flat arrays.
        arrays: the mapped arrays by name.
    """

    identity: CaptureIdentity
    vocabulary: int
    temperature: float
    places: npt.NDArray[np.void]
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `build_targets_file` has finished in a folder.

        Raises:
            LogitsError: it was not finished.
        """
        if (marker := _read_marker(folder)) is None:
            raise LogitsError(f"{folder}: the training targets are not complete; start the training again")
        identity, vocabulary = CaptureIdentity.model_validate(marker["capture"]), int(marker["vocabulary"])
        kinds = _kinds(identity, vocabulary)
        arrays = {name: _mapped(folder / f"{name}.bin", kind) for name, kind in kinds.items()}
        return cls(identity, vocabulary, marker["temperature"], np.load(folder / PLACES_FILE), arrays)

    def __len__(self) -> int:
        """How many rows were asked for."""
        return len(self.places)

    def tokens(self, position: int) -> int:
        """Tokens of the completion at a position."""
        return int(self.places[position]["tokens"])

    def topk(self, position: int) -> tuple[LongIds, Floats, Floats]:
        """Top-k targets at the training temperature.

        Returns:
            ids [tokens, k], log-probabilities [tokens, k] and log tail mass [tokens].
        """
        place = self.places[position]
        rows = slice(int(place["token"]), int(place["token"] + place["tokens"]))
        k = kept_ids(self.identity, self.vocabulary)
        ids, log_probs = (self.arrays[name].reshape(-1, k)[rows] for name in ("ids", "log_probs"))
        return ids.astype(np.int64), log_probs.astype(np.float32), self.arrays["log_tail"][rows].astype(np.float32)

    def tail(self, position: int) -> tuple[LongIds, LongIds]:
        """Ids drawn from the tails of top-k targets at temperature 1.

        Returns:
            ids [Σ counts], token after token, and counts [tokens].
        """
        place = self.places[position]
        rows = slice(int(place["token"]), int(place["token"] + place["tokens"]))
        counts = self.arrays["tail_counts"][rows].astype(np.int64)
        start = int(place["tail"])
        return self.arrays["tail_ids"][start : start + int(counts.sum())].astype(np.int64), counts

    def draws(self, position: int, draw_set: int) -> tuple[LongIds, Floats, LongIds]:
        """One set of draws.

        Returns:
            ids [Σ counts], token after token, weights [Σ counts], how often each was drawn / draws, and counts
            [tokens], how many different ids a token has.

        Raises:
            LogitsError: there are not so many sets.
        """
        sets = self.identity.draw_sets or 0
        if not 0 <= draw_set < sets:
            raise LogitsError(
                f"set {draw_set + 1} of draws is wanted, one an epoch, and {sets} are captured; "
                f"write `logits: {{draw_sets: {draw_set + 1}}}` or train for {sets} epochs"
            )
        place = self.places[position]
        start, tokens = int(place["token"]) * sets, int(place["tokens"])
        distinct = self.arrays["distinct"][start : start + sets * tokens].reshape(sets, tokens).astype(np.int64)
        begin = int(place["id"] + distinct[:draw_set].sum())
        pairs = slice(begin, begin + int(distinct[draw_set].sum()))
        weights: Floats = self.arrays["counts"][pairs].astype(np.float32) / np.float32(self.identity.draws or 1)
        return self.arrays["ids"][pairs].astype(np.int64), weights, distinct[draw_set]

    def hidden(self, position: int) -> bytes | None:
        """The teacher's last hidden states, as they were captured, or None."""
        place = self.places[position]
        if place["hidden_bytes"] == _NO_HIDDEN:
            return None
        return self.arrays["hidden"][place["hidden"] : place["hidden"] + place["hidden_bytes"]].tobytes()


def build_targets_file(
    folder: Path,
    wanted: pl.DataFrame,
    shard_folder: Path,
    identity: CaptureIdentity,
    vocabulary: int,
    temperature: float,
    progress: Progress = lambda done, total: None,
) -> TargetsFile:
    """Decodes sequences out of their shards, one row group in memory at a time.

    Args:
        folder: scratch; what is complete there for the same arguments is used as it is, all else is made again.
        wanted: request_key, ids_hash, shard and row, in the order that gives positions; rows may repeat.
        shard_folder: where the shards lie.
        identity: what they must be captures of.
        vocabulary: the teacher's number of token ids.
        temperature: the training's.
        progress: called with the positions done and wanted.

    Raises:
        LogitsError: the temperature was not captured, or a sequence is not at its place.
    """
    if temperature not in identity.temperatures:
        captured = ", ".join(f"{one:g}" for one in identity.temperatures)
        raise LogitsError(
            f"logits are captured at temperature {captured}, and training is at {temperature:g}; "
            f"add {temperature:g} to logits.temperatures"
        )
    rows = frame_version(wanted, ("request_key", "ids_hash"))
    marker = {
        "layout": _LAYOUT,
        "capture": identity.model_dump(mode="json"),
        "vocabulary": vocabulary,
        "temperature": temperature,
        "wanted": digest({"rows": rows, "number": len(wanted)}),
    }
    found = _read_marker(folder)
    if found is None or any(found.get(name) != value for name, value in marker.items()):
        _build(folder, marker, wanted, shard_folder, identity, temperature, progress)
    return TargetsFile.open(folder)


def _build(
    folder: Path,
    marker: dict[str, Any],
    wanted: pl.DataFrame,
    shard_folder: Path,
    identity: CaptureIdentity,
    temperature: float,
    progress: Progress,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER_FILE).unlink(missing_ok=True)
    places = np.zeros(len(wanted), dtype=_PLACE)
    done = 0
    with _FlatFiles(folder, _kinds(identity, marker["vocabulary"])) as files:
        for positions, sequence in _found(wanted, shard_folder, identity):
            places[positions] = files.append(sequence, identity, temperature)
            done += len(positions)
            progress(done, len(wanted))
    write_file(folder / PLACES_FILE, lambda aside: _save(aside, places))
    sizes = {path.name: path.stat().st_size for path in _data_files(folder, identity, marker["vocabulary"])}
    write_json(folder / MARKER_FILE, {**marker, "sizes": sizes})


def _found(wanted: pl.DataFrame, shard_folder: Path, identity: CaptureIdentity) -> Iterator[tuple[list[int], Sequence]]:
    """Each wanted sequence once, with all its positions, in the order of shards and rows."""
    places = wanted.with_row_index("position").group_by("shard", "row").agg("position", "request_key", "ids_hash")
    for shard in places.sort("shard", "row").partition_by("shard", maintain_order=True):
        path = shard_folder / shard["shard"][0]
        sequences = read_sequences(path, identity, shard["row"].to_list())
        rows = shard.select("position", "request_key", "ids_hash", "row").iter_rows()
        for (positions, keys, hashes, row), sequence in zip(rows, sequences, strict=True):
            if {*keys} != {sequence.request_key} or {*hashes} != {sequence.ids_hash}:
                raise LogitsError(
                    f"{path}: row {row} holds another completion than the one wanted; materialise teacher_logits again"
                )
            yield positions, sequence


class _FlatFiles:
    """The flat arrays on their way to disk, published together when the block ends well."""

    def __init__(self, folder: Path, kinds: dict[str, npt.DTypeLike]) -> None:
        self._folder = folder
        self._kinds = kinds
        self._stack = contextlib.ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._tokens = 0

    def __enter__(self) -> Self:
        for name in self._kinds:
            self._files[name] = self._stack.enter_context((self._folder / f"{name}.bin.tmp").open("wb"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for name in self._kinds if kind is None else ():
            publish_file(self._folder / f"{name}.bin.tmp", self._folder / f"{name}.bin")

    def append(self, sequence: Sequence, identity: CaptureIdentity, temperature: float) -> tuple[int, ...]:
        """Writes a sequence; returns its place, in the order of `_PLACE`."""
        id_bytes = np.dtype(self._kinds["ids"]).itemsize
        id_place = self._files["ids"].tell() // id_bytes
        hidden = _NO_HIDDEN if sequence.hidden is None else len(sequence.hidden)
        tail = self._files["tail_ids"].tell() // id_bytes if "tail_ids" in self._files else 0
        place = (self._tokens, sequence.tokens, id_place, tail, self._files["hidden"].tell(), hidden)
        if isinstance(sequence.targets, TopK):
            arrays = _at_temperature(sequence.targets, identity, temperature)
        else:
            arrays = _drawn(sequence.targets)
        for name, array in arrays.items():
            self._files[name].write(array.astype(self._kinds[name], copy=False).tobytes())
        self._files["hidden"].write(sequence.hidden or b"")
        self._tokens += sequence.tokens
        return place


def _at_temperature(targets: TopK, identity: CaptureIdentity, temperature: float) -> dict[str, npt.NDArray[Any]]:
    at = identity.temperatures.index(temperature)
    log_probs = targets.log_probs
    if temperature != 1.0:
        log_probs = (log_probs + targets.log_z_one[:, None]) / np.float32(temperature) - targets.log_z[:, at, None]
    arrays: dict[str, npt.NDArray[Any]] = {
        "ids": targets.ids,
        "log_probs": to_half(log_probs),
        "log_tail": tail_to_half(targets.log_tail[:, at]),
    }
    if targets.tail_ids.size:
        arrays |= {"tail_ids": targets.tail_ids, "tail_counts": targets.tail_counts}
    return arrays


def _drawn(targets: Draws) -> dict[str, npt.NDArray[Any]]:
    return {"ids": targets.ids, "counts": targets.counts, "distinct": targets.distinct}


def _kinds(identity: CaptureIdentity, vocabulary: int) -> dict[str, npt.DTypeLike]:
    """The flat arrays of a method and their types."""
    ids = np.uint16 if vocabulary <= _NARROW_VOCABULARY else np.int32
    if identity.method == "topk":
        drawn = {"tail_ids": ids, "tail_counts": np.uint16} if draws_tail(identity, vocabulary) else {}
        return {"ids": ids, "log_probs": np.float16, "log_tail": np.float16, **drawn, "hidden": np.uint8}
    return {"ids": ids, "counts": np.uint16, "distinct": np.uint16, "hidden": np.uint8}


def _data_files(folder: Path, identity: CaptureIdentity, vocabulary: int) -> list[Path]:
    return [folder / PLACES_FILE, *(folder / f"{name}.bin" for name in _kinds(identity, vocabulary))]


def _read_marker(folder: Path) -> dict[str, Any] | None:
    """The finished marker, where all files have the sizes that it says."""
    try:
        marker: dict[str, Any] = read_json(folder / MARKER_FILE)
        whole = all((folder / name).stat().st_size == size for name, size in marker["sizes"].items())
    except (StorageError, FileNotFoundError):
        return None
    return marker if whole else None


def _mapped(path: Path, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=kind)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
