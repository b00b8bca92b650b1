"""Made-up captured sequences of any shape, for tests of the sparse format."""

from pathlib import Path

import numpy as np
import polars as pl

from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.index import Index
from distill_dagster.logits.shards import read_keys
from distill_dagster.logits.sparse import Draws, Sequence, TopK, ids_hash

VOCABULARY = 300


def topk_identity(
    k: int = 4, temperatures: tuple[float, ...] = (1.0,), tokenizer: str = "t" * 64, draws: int | None = 3
) -> CaptureIdentity:
    return CaptureIdentity(
        method="topk",
        k=k,
        draws=draws,
        temperatures=temperatures,
        model="m" * 64,
        tokenizer=tokenizer,
        template="c",
        dtype="float32",
    )


def sample_identity(draws: int = 5, draw_sets: int = 2) -> CaptureIdentity:
    return CaptureIdentity(
        method="sample", draws=draws, draw_sets=draw_sets, model="m", tokenizer="t", template="c", dtype="float32"
    )


def make_targets(identity: CaptureIdentity, tokens: int, vocabulary: int, seed: int) -> TopK | Draws:
    """Targets as a capture would make them, of random logits."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=3, size=(tokens, vocabulary))
    if identity.method == "sample":
        return _drawn(random, logits, identity)
    log_z = np.stack([_logsumexp(logits / t) for t in identity.temperatures], axis=1)
    log_z_one = _logsumexp(logits)
    ids = np.sort(np.argsort(-logits, axis=1)[:, : identity.k], axis=1)
    others = logits.copy()
    np.put_along_axis(others, ids, -np.inf, axis=1)
    tails = np.stack([_logsumexp(others / t) for t in identity.temperatures], axis=1) - log_z
    return TopK(
        ids=ids.astype(np.int32),
        log_probs=(np.take_along_axis(logits, ids, axis=1) - log_z_one[:, None]).astype(np.float32),
        log_tail=tails.astype(np.float32),
        log_z=np.where(np.array(identity.temperatures) == 1, log_z_one[:, None], log_z).astype(np.float32),
        log_z_one=log_z_one.astype(np.float32),
        **_tail(random, ids, vocabulary, identity.draws or 0),
    )


def make_sequence(
    identity: CaptureIdentity, name: str, tokens: int = 3, vocabulary: int = VOCABULARY, hidden: bytes | None = None
) -> Sequence:
    """A sequence that is the same for the same name."""
    seed = int.from_bytes(name.encode(), "little") % 2**32
    targets = make_targets(identity, tokens, vocabulary, seed)
    return Sequence(name, ids_hash(range(seed % 1000, seed % 1000 + tokens)), tokens, targets, hidden)


def index_of(identity: CaptureIdentity, *shards: Path, names: list[str] | None = None) -> Index:
    """An index of the sequences of some shards, or of those with the given names."""
    keys = pl.concat([read_keys(path).with_columns(pl.lit(path.name).alias("shard")) for path in shards])
    if names is not None:
        keys = keys.filter(pl.col("request_key").is_in(names))
    frame = keys.with_columns(
        pl.format("prompt {}", "request_key").alias("prompt_id"),
        pl.lit(0).alias("sample"),
        pl.lit("train").alias("split"),
        pl.lit(False).alias("has_hidden"),
    )
    return Index(identity, VOCABULARY, frame, {path.name: path.stat().st_size for path in shards})


def assert_same(read: Sequence, written: Sequence) -> None:
    """Equal but for the rounding of log-probabilities to float16."""
    assert (read.request_key, read.ids_hash, read.tokens) == (written.request_key, written.ids_hash, written.tokens)
    assert read.hidden == written.hidden
    if isinstance(written.targets, Draws):
        np.testing.assert_array_equal(read.targets.distinct, written.targets.distinct)
        np.testing.assert_array_equal(read.targets.ids, written.targets.ids)
        np.testing.assert_array_equal(read.targets.counts, written.targets.counts)
        assert read.targets.draws == written.targets.draws
        return
    np.testing.assert_array_equal(read.targets.ids, written.targets.ids)
    np.testing.assert_array_equal(read.targets.tail_counts, written.targets.tail_counts)
    np.testing.assert_array_equal(read.targets.tail_ids, written.targets.tail_ids)
    np.testing.assert_array_equal(read.targets.log_z, written.targets.log_z)
    np.testing.assert_array_equal(read.targets.log_z_one, written.targets.log_z_one)
    np.testing.assert_allclose(read.targets.log_probs, written.targets.log_probs, rtol=2**-11, atol=6e-8)
    np.testing.assert_allclose(read.targets.log_tail, written.targets.log_tail, rtol=2**-11, atol=6e-8)


def _tail(random: np.random.Generator, ids: np.ndarray, vocabulary: int, draws: int) -> dict[str, np.ndarray]:
    """Up to `draws` ascending ids a token that are not among `ids`, perhaps repeatedly; none where these are all."""
    if ids.shape[1] == vocabulary or not draws:
        return {"tail_counts": np.zeros(len(ids), dtype=np.int32), "tail_ids": np.empty(0, dtype=np.int32)}
    counts = random.integers(1, draws + 1, size=len(ids)).astype(np.int32)
    others = [np.setdiff1d(np.arange(vocabulary), row) for row in ids]
    drawn = [np.sort(random.choice(left, size=count)) for left, count in zip(others, counts, strict=True)]
    return {"tail_counts": counts, "tail_ids": np.concatenate([np.empty(0), *drawn]).astype(np.int32)}


def _drawn(random: np.random.Generator, logits: np.ndarray, identity: CaptureIdentity) -> Draws:
    probabilities = np.exp(logits - _logsumexp(logits)[:, None])
    found = [
        np.unique(random.choice(len(row), size=identity.draws, p=row / row.sum()), return_counts=True)
        for _ in range(identity.draw_sets)
        for row in probabilities
    ]
    return Draws(
        distinct=np.array([len(ids) for ids, _ in found], dtype=np.int32).reshape(identity.draw_sets, len(logits)),
        ids=np.concatenate([np.empty(0), *(ids for ids, _ in found)]).astype(np.int32),
        counts=np.concatenate([np.empty(0), *(counts for _, counts in found)]).astype(np.int32),
        draws=identity.draws,
    )


def _logsumexp(values: np.ndarray) -> np.ndarray:
    if not values.size:
        return np.full(len(values), -np.inf)
    top = values.max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isneginf(top), top, top + np.log(np.exp(values - top[:, None]).sum(axis=1)))
