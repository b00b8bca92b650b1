"""Finds prompts that ask the same: equal after normalisation, or alike by the Jaccard similarity of their 5-grams."""

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill_dagster.dataset.sketches import SHINGLE_CHARS, Bands, bands_of
from distill_dagster.prompts.identity import normalise
from distill_dagster.prompts.splits import Split, sha256_hex

_RANK = {split.value: rank for rank, split in enumerate(Split)}
_CONTEXT_CHARS = 16
_ASKS_CHARS = 32

Texts = Callable[[pl.Series], Iterable[pl.DataFrame]]
"""prompt_id, split, text and student_messages of some prompts, given their ids, in parts."""


def comparable(prompts: pl.DataFrame) -> pl.DataFrame:
    """Prompts in the order in which they win: held_out, test, validation, train, then the smaller prompt_id.

    Args:
        prompts: prompt_id, split, text, student_messages; one row a prompt.

    Returns:
        prompt_id, split, normal (str: the normalised text), context (str: hash of the system prompt the student reads;
        prompts under different system prompts ask different things).
    """
    head = pl.col("student_messages").str
    system = pl.when(head.json_path_match("$[0].role") == "system").then(head.json_path_match("$[0].content"))
    ordered = _in_order(prompts)
    return ordered.select(
        "prompt_id",
        "split",
        pl.Series("normal", map(normalise, ordered["text"]), dtype=pl.String),
        sha256_hex(system.fill_null("")).str.slice(0, _CONTEXT_CHARS).alias("context"),
    )


class Questions:
    """What prompts ask, in hashes: some 250 bytes a prompt, however long it is."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def add(self, prompts: pl.DataFrame) -> None:
        """Takes prompts as `comparable` or `sketched` returns them; every prompt_id once."""
        asks = sha256_hex(pl.concat_str("context", "normal")).str.slice(0, _ASKS_CHARS)
        self._frames.append(prompts.with_columns(asks=asks).drop("context", "normal"))

    def of(self, prompt_ids: pl.Series) -> pl.DataFrame:
        """prompt_id, split, asks (str: equal where the same is asked), bands where there are any; in their order."""
        if len(self._frames) > 1:
            self._frames = [_in_order(pl.concat(self._frames))]
        return self._frames[0].filter(pl.col("prompt_id").is_in(prompt_ids.unique().implode()))


def sketched(prompts: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """The prompts with `bands` (array of UInt32): two that have none in common do not resemble each other.

    Args:
        prompts: as `comparable` returns them.
        threshold: in (0, 1].
    """
    bands = bands_of(prompts["normal"], prompts["context"], threshold)
    kind = pl.Array(pl.UInt32, bands.shape[1])
    return prompts.with_columns(pl.Series("bands", bands if len(bands) else [], dtype=kind))


def exact_duplicates(answers: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Answers to a prompt that another prompt asks too, and answers that repeat another sample of their prompt.

    Several different answers to one prompt are no duplicates.

    Args:
        answers: prompt_id, sample, repeats (bool: says what a smaller sample of the prompt says).
        prompts: as `Questions.of` returns them; all of them have an answer.

    Returns:
        prompt_id, sample, other (str: the prompt that stays).
    """
    owners = prompts.select("prompt_id", other=pl.col("prompt_id").first().over("asks"))
    answers = answers.select("prompt_id", "sample", "repeats").join(owners, on="prompt_id")
    return answers.filter((pl.col("prompt_id") != pl.col("other")) | pl.col("repeats")).drop("repeats")


def near_duplicates(
    prompts: pl.DataFrame, texts: Texts, threshold: float, *, within: bool, across: bool
) -> pl.DataFrame:
    """Prompts that resemble one that stays.

    Greedy in the frame's order: a prompt goes where an earlier one that stays has a Jaccard similarity of at least
    `threshold` on character 5-grams of the normalised text. MinHash bands propose candidates, and the exact similarity
    decides. A similarity at the threshold is found with a probability of at least 0.999.

    Args:
        prompts: as `Questions.of` returns them, with bands for this threshold.
        texts: asked for the prompts that share a band with another.
        threshold: in (0, 1].
        within: count resemblances inside one split.
        across: count resemblances between splits.

    Returns:
        prompt_id, other (str: the earliest prompt it resembles), same_split (bool).
    """
    bands = prompts["bands"].to_numpy()
    shared = _shared(bands)
    is_suspect = shared.any(axis=1)
    suspects = prompts.filter(pl.Series(is_suspect, dtype=pl.Boolean)).drop("bands")
    # Part by part: rows picked out of a frame keep all its texts in memory.
    parts = (comparable(part).select("prompt_id", "normal", "context") for part in texts(suspects["prompt_id"]))
    asked = pl.concat([pl.DataFrame(schema=dict.fromkeys(("prompt_id", "normal", "context"), pl.String)), *parts])
    suspects = suspects.join(asked, on="prompt_id", maintain_order="left")
    staying: dict[tuple[int, int], list[int]] = {}
    ids, splits = suspects["prompt_id"], suspects["split"].to_list()
    asking = list(suspects.select("normal", "context").iter_rows())
    found: list[tuple[str, str, bool]] = []
    for row, (own, is_shared) in enumerate(zip(bands[is_suspect], shared[is_suspect], strict=True)):
        keys = [(int(band), int(own[band])) for band in np.flatnonzero(is_shared)]
        candidates = {other for key in keys for other in staying.get(key, ())}
        counted = (other for other in sorted(candidates) if (within if splits[other] == splits[row] else across))
        resembled = _first_alike(asking[row], ((other, asking[other]) for other in counted), threshold)
        if resembled is not None:
            found.append((ids[row], ids[resembled], splits[row] == splits[resembled]))
            continue
        for key in keys:
            staying.setdefault(key, []).append(row)
    return pl.DataFrame(
        found, schema={"prompt_id": pl.String, "other": pl.String, "same_split": pl.Boolean}, orient="row"
    )


def resemblances(prompts: pl.DataFrame, others: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Prompts that resemble one of a few others, or are the same; found as in `near_duplicates`.

    Args:
        prompts, others: as `sketched` returns them for the threshold.
        threshold: in (0, 1].

    Returns:
        prompt_id, other (str: the first of `others` that it resembles).
    """
    known = list(others.select("normal", "context").iter_rows())
    own, theirs = prompts["bands"].to_numpy(), others["bands"].to_numpy()
    suspects = np.zeros(len(own), dtype=bool)
    for column, other_column in zip(own.T, theirs.T, strict=True):
        suspects |= np.isin(column, other_column)
    found: list[tuple[str, str]] = []
    rows = prompts.filter(pl.Series(suspects, dtype=pl.Boolean))
    for row, bands in zip(rows.select("prompt_id", "normal", "context").iter_rows(), own[suspects], strict=True):
        candidates = np.flatnonzero((theirs == bands).any(axis=1)).tolist()
        other = _first_alike(row[1:], ((candidate, known[candidate]) for candidate in candidates), threshold)
        if other is not None:
            found.append((row[0], others["prompt_id"][other]))
    return pl.DataFrame(found, schema={"prompt_id": pl.String, "other": pl.String}, orient="row")


def _shared(bands: Bands) -> NDArray[np.bool_]:
    """Of each row and band, whether another row is equal there."""
    shared = np.zeros(bands.shape, dtype=bool)
    rows = np.arange(len(bands), dtype=np.uint64)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    for number, column in enumerate(bands.T):
        ordered = np.sort((column.astype(np.uint64) << half) | rows)  # far faster than sorting places by value
        equal = np.flatnonzero(ordered[1:] >> half == ordered[:-1] >> half)
        shared[ordered[equal] & low, number] = shared[ordered[equal + 1] & low, number] = True
    return shared


def _in_order(prompts: pl.DataFrame) -> pl.DataFrame:
    return prompts.sort(pl.col("split").replace_strict(_RANK, return_dtype=pl.Int8), "prompt_id")


def jaccard(left: set[str], right: set[str]) -> float:
    """|A ∩ B| / |A ∪ B| of two non-empty sets."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def _first_alike(asked: tuple[str, str], others: Iterable[tuple[int, tuple[str, str]]], threshold: float) -> int | None:
    """The first of some numbered prompts (normal, context) that resembles one, if any does."""
    text, context = asked
    shingles = _shingles(text)
    alike = (
        number
        for number, (other, under) in others
        if under == context and jaccard(shingles, _shingles(other)) >= threshold
    )
    return next(alike, None)


def _shingles(text: str) -> set[str]:
    """Character 5-grams; a shorter text is its own only one."""
    return {text[start : start + SHINGLE_CHARS] for start in range(len(text) - SHINGLE_CHARS + 1)} or {text}
