"""Sparse targets as Arrow columns: gaps between ids, float16 log-probabilities, one list a sequence in each column."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.sparse import Draws, Floats, Ids, Sequence, TopK

KEY_COLUMNS = ("request_key", "ids_hash", "tokens", "has_hidden")
FLOOR = -60_000.0  # just inside float16, whose lowest finite value is -65,504
_NARROW_VOCABULARY = 1 << 16

_Array = npt.NDArray[Any]


def columns(identity: CaptureIdentity, vocabulary: int) -> pa.Schema:
    """The columns of a shard, one row a sequence.

    `topk`: gaps [tokens × k], log_probs [tokens × k], log_tail [tokens × temperatures], log_z [tokens × temperatures
    other than 1, for which it is log_z_one], log_z_one [tokens], and where any are drawn tail_counts [tokens] and
    tail_gaps [Σ tail_counts]. `sample`: distinct [draw_sets × tokens], gaps and counts [Σ distinct]. A gap is an id
    less the one before it less 1, and the first id of a token itself; a tail gap, whose ids may repeat, is not less 1.
    """
    gaps = pa.uint16() if vocabulary <= _NARROW_VOCABULARY else pa.uint32()
    if identity.method == "topk":
        lists = {"gaps": gaps, "log_probs": pa.float16(), "log_tail": pa.float16()}
        if any(_stored(identity)):
            lists["log_z"] = pa.float32()
        lists["log_z_one"] = pa.float32()
        if draws_tail(identity, vocabulary):
            lists |= {"tail_counts": pa.uint16(), "tail_gaps": gaps}
    else:
        lists = {"distinct": pa.uint16(), "gaps": gaps, "counts": pa.uint16()}
    return pa.schema(
        [
            ("request_key", pa.string()),
            ("ids_hash", pa.string()),
            ("tokens", pa.int32()),
            ("has_hidden", pa.bool_()),
            *((name, pa.list_(pa.field("element", kind, nullable=False))) for name, kind in lists.items()),
            ("hidden", pa.large_binary()),
        ]
    )


def pack(sequences: list[Sequence], identity: CaptureIdentity, vocabulary: int) -> pa.Table:
    """Sequences as a table of `columns`.

    Log-probabilities are rounded to float16 and clipped at `FLOOR`; a tail of -inf stays -inf.

    Raises:
        LogitsError: a value is not a number.
        ValueError: ids that do not ascend or are outside the vocabulary, or shapes that are not the identity's.
    """
    schema = columns(identity, vocabulary)
    flat = [_flat(sequence, identity, vocabulary) for sequence in sequences]
    arrays = {
        "request_key": pa.array([sequence.request_key for sequence in sequences], pa.string()),
        "ids_hash": pa.array([sequence.ids_hash for sequence in sequences], pa.string()),
        "tokens": pa.array([sequence.tokens for sequence in sequences], pa.int32()),
        "has_hidden": pa.array([sequence.hidden is not None for sequence in sequences], pa.bool_()),
        "hidden": pa.array([sequence.hidden for sequence in sequences], pa.large_binary()),
    }
    for field in schema:
        if field.name not in arrays:
            arrays[field.name] = _list_array([one[field.name] for one in flat], field.type)
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def unpack(table: pa.Table, identity: CaptureIdentity, vocabulary: int, rows: Iterable[int]) -> Iterator[Sequence]:
    """The sequences at some rows of a packed table, in the order of `rows`.

    Raises:
        ValueError: lists whose lengths do not fit the identity.
    """
    keys, hashes, tokens, _ = (table.column(name).to_pylist() for name in KEY_COLUMNS)
    hidden = table.column("hidden")
    lists = {field.name: _Lists(table.column(field.name)) for field in table.schema if pa.types.is_list(field.type)}
    for row in rows:
        flat = {name: values.at(row) for name, values in lists.items()}
        read = _top_k if identity.method == "topk" else _draws
        targets = read(flat, tokens[row], identity, vocabulary)
        yield Sequence(keys[row], hashes[row], tokens[row], targets, hidden[row].as_py())


def size_bytes(sequence: Sequence) -> int:
    """What a sequence takes in memory, about."""
    return sum(array.nbytes for array in vars(sequence.targets).values() if isinstance(array, np.ndarray)) + len(
        sequence.hidden or b""
    )


def to_half(values: Floats) -> npt.NDArray[np.float16]:
    """Float16 of log-probabilities; what is below `FLOOR`, -inf as well, becomes `FLOOR`."""
    return np.clip(values, FLOOR, -FLOOR).astype(np.float16)


def tail_to_half(values: Floats) -> npt.NDArray[np.float16]:
    """Float16 of log tail masses: as `to_half`, but an empty tail (-inf) stays one."""
    return np.where(np.isneginf(values), np.float16(-np.inf), to_half(values))


def kept_ids(identity: CaptureIdentity, vocabulary: int) -> int:
    """Ids stored for each token by `topk`: k, or all there are."""
    if identity.k is None:
        raise ValueError("a topk capture has a k")
    return min(identity.k, vocabulary)


def draws_tail(identity: CaptureIdentity, vocabulary: int) -> bool:
    """Whether `topk` draws from tails: not where no id is left to draw."""
    return bool(identity.draws) and kept_ids(identity, vocabulary) < vocabulary


class _Lists:
    """A list column, cut without copying."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        self._offsets = array.offsets.to_numpy()
        self._values = array.values.to_numpy()

    def at(self, row: int) -> _Array:
        values: _Array = self._values[self._offsets[row] : self._offsets[row + 1]]
        return values


def _list_array(parts: list[_Array], kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(parts) + 1, dtype=np.int32)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    values = np.concatenate(parts) if parts else np.empty(0)
    flat = pa.array(values.astype(kind.value_type.to_pandas_dtype(), copy=False), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind)


def _stored(identity: CaptureIdentity) -> list[bool]:
    """Which temperatures have a log Z of their own on disk."""
    return [temperature != 1.0 for temperature in identity.temperatures]


def _flat(sequence: Sequence, identity: CaptureIdentity, vocabulary: int) -> dict[str, _Array]:
    targets = sequence.targets
    if isinstance(targets, TopK) != (identity.method == "topk"):
        raise ValueError(f"{sequence.request_key}: {type(targets).__name__} in a capture by {identity.method!r}")
    if isinstance(targets, TopK):
        return _flat_top_k(sequence.request_key, sequence.tokens, targets, identity, vocabulary)
    return _flat_draws(sequence.request_key, sequence.tokens, targets, identity, vocabulary)


def _flat_top_k(name: str, tokens: int, targets: TopK, identity: CaptureIdentity, vocabulary: int) -> dict[str, _Array]:
    k, temperatures = kept_ids(identity, vocabulary), len(identity.temperatures)
    _expect(name, "ids", targets.ids, (tokens, k))
    _expect(name, "log_probs", targets.log_probs, (tokens, k))
    _expect(name, "log_tail", targets.log_tail, (tokens, temperatures))
    _expect(name, "log_z", targets.log_z, (tokens, temperatures))
    _expect(name, "log_z_one", targets.log_z_one, (tokens,))
    if any(np.isnan(part).any() for part in (targets.log_probs, targets.log_tail, targets.log_z, targets.log_z_one)):
        raise LogitsError(
            f"{name}: the teacher's distribution is not a number, which a narrow precision may cause; "
            "write another `dtype` for the teacher, such as bfloat16 or float32"
        )
    _expect(name, "tail_counts", targets.tail_counts, (tokens,))
    _expect(name, "tail_ids", targets.tail_ids, (int(targets.tail_counts.sum()),))
    lengths = np.full(tokens, k, dtype=np.int64)
    return {
        "gaps": _gaps(name, targets.ids.reshape(-1), lengths, vocabulary),
        "log_probs": to_half(targets.log_probs).reshape(-1),
        "log_tail": tail_to_half(targets.log_tail).reshape(-1),
        "log_z": targets.log_z[:, _stored(identity)].reshape(-1),
        "log_z_one": targets.log_z_one,
        "tail_counts": targets.tail_counts,
        "tail_gaps": _gaps(name, targets.tail_ids, targets.tail_counts, vocabulary, step=0),
    }


def _flat_draws(
    name: str, tokens: int, targets: Draws, identity: CaptureIdentity, vocabulary: int
) -> dict[str, _Array]:
    if targets.draws != identity.draws:
        raise ValueError(f"{name}: {targets.draws} draws in a capture of {identity.draws}")
    _expect(name, "distinct", targets.distinct, (identity.draw_sets or 0, tokens))
    total = int(targets.distinct.sum())
    _expect(name, "ids", targets.ids, (total,))
    _expect(name, "counts", targets.counts, (total,))
    return {
        "distinct": targets.distinct.reshape(-1),
        "gaps": _gaps(name, targets.ids, targets.distinct.reshape(-1), vocabulary),
        "counts": targets.counts,
    }


def _top_k(flat: dict[str, _Array], tokens: int, identity: CaptureIdentity, vocabulary: int) -> TopK:
    k, stored = kept_ids(identity, vocabulary), np.array(_stored(identity), dtype=bool)
    log_z_one = flat["log_z_one"].astype(np.float32)
    log_z = np.repeat(log_z_one.reshape(tokens, 1), len(stored), axis=1)
    if stored.any():
        log_z[:, stored] = flat["log_z"].reshape(tokens, int(stored.sum()))
    ids = _ids(flat["gaps"], np.full(tokens, k, dtype=np.int64))
    counts, drawn = np.zeros(tokens, dtype=np.int32), ids[:0]
    if draws_tail(identity, vocabulary):
        counts = flat["tail_counts"].astype(np.int32)
        drawn = _ids(flat["tail_gaps"], counts, step=0)
    return TopK(
        ids=ids.reshape(tokens, k),
        log_probs=flat["log_probs"].astype(np.float32).reshape(tokens, k),
        log_tail=flat["log_tail"].astype(np.float32).reshape(tokens, len(stored)),
        log_z=log_z,
        log_z_one=log_z_one,
        tail_counts=counts,
        tail_ids=drawn,
    )


def _draws(flat: dict[str, _Array], tokens: int, identity: CaptureIdentity, _vocabulary: int) -> Draws:
    distinct = flat["distinct"].astype(np.int32)
    return Draws(
        distinct=distinct.reshape(identity.draw_sets or 0, tokens),
        ids=_ids(flat["gaps"], distinct),
        counts=flat["counts"].astype(np.int32),
        draws=identity.draws or 0,
    )


def _gaps(name: str, ids: Ids, lengths: _Array, vocabulary: int, step: int = 1) -> _Array:
    """Gaps of ids [Σ lengths] that ascend within runs of the given lengths, each by at least `step`."""
    gaps = np.diff(ids.astype(np.int64), prepend=0) - step
    first = (np.cumsum(lengths) - lengths)[lengths > 0]
    gaps[first] = ids[first]
    if len(ids) and (gaps.min() < 0 or ids.max() >= vocabulary):
        raise ValueError(f"{name}: ids must ascend within a token and lie below the vocabulary of {vocabulary}")
    return gaps


def _ids(gaps: _Array, lengths: _Array, step: int = 1) -> Ids:
    """The inverse of `_gaps`."""
    sums = np.concatenate(([0], np.cumsum(gaps.astype(np.int64) + step)))
    before = np.repeat(sums[np.cumsum(lengths) - lengths], lengths)
    ids: Ids = (sums[1:] - before - step).astype(np.int32)
    return ids


def _expect(name: str, what: str, array: _Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: {what} is {list(array.shape)}, expected {list(shape)}")
