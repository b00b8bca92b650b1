"""Finds prompts that ask the same: equal after normalisation, or alike by the Jaccard similarity of their 5-grams."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import polars as pl
import rensa
from numpy.typing import NDArray

from distill_dagster.prompts.identity import normalise
from distill_dagster.prompts.splits import Split, sha256_hex

SHINGLE_CHARS = 5
_PERMUTATIONS = 120  # divisible in many ways, so that bands can fit the threshold
_SEED = 17
_RECALL = 0.999
_RANK = {split.value: rank for rank, split in enumerate(Split)}
_CONTEXT_CHARS = 16
_ASKS_CHARS = 32
_SKETCHED_TOGETHER = 1_024
# Odd, so that multiplying by it loses nothing modulo 2⁶⁴ (the golden ratio's fraction).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_REMEMBERED = {"prompt_id": pl.String, "split": pl.String, "asks": pl.String}

Texts = Callable[[pl.Series], pl.DataFrame]
"""prompt_id, split, text and student_messages of some prompts, given their ids."""
Bands = NDArray[np.uint32]
"""MinHash bands: a row a prompt, a column a band; prompts that are equal in a band may resemble each other."""


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

    def __init__(self, threshold: float | None) -> None:
        """Args:
        threshold: of `near_duplicates`; None where resemblances are not looked for.
        """
        self._threshold = threshold
        self._frames = [pl.DataFrame(schema=_REMEMBERED)]
        self._bands: list[Bands] = []

    def add(self, prompts: pl.DataFrame) -> None:
        """Takes prompts as `comparable` returns them; every prompt_id once."""
        asks = sha256_hex(pl.concat_str("context", "normal")).str.slice(0, _ASKS_CHARS)
        self._frames.append(prompts.select("prompt_id", "split", asks=asks))
        if self._threshold is not None:
            self._bands.append(bands_of(prompts, self._threshold))

    def of(self, prompt_ids: pl.Series) -> pl.DataFrame:
        """prompt_id, split, asks (str: equal where the same is asked) and row (of `bands`), in the order of winning."""
        if len(self._frames) > 1:
            self._frames = [_in_order(pl.concat(self._frames).with_row_index("row"))]
        return self._frames[0].filter(pl.col("prompt_id").is_in(prompt_ids.unique().implode()))

    @property
    def bands(self) -> Bands:
        """Of all prompts, in the order in which they were added."""
        if len(self._bands) != 1:
            self._bands = [np.concatenate(self._bands)]
        return self._bands[0]


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
    prompts: pl.DataFrame, bands: Bands, texts: Texts, threshold: float, *, within: bool, across: bool
) -> pl.DataFrame:
    """Prompts that resemble one that stays.

    Greedy in the frame's order: a prompt goes where an earlier one that stays has a Jaccard similarity of at least
    `threshold` on character 5-grams of the normalised text. MinHash bands (Broder 1997; Leskovec, Rajaraman, Ullman,
    "Mining of Massive Datasets", 3.4) propose candidates, and the exact similarity decides. A similarity at the
    threshold is found with a probability of at least 0.999.

    Args:
        prompts: as `Questions.of` returns them.
        bands: those that their column `row` points at.
        texts: asked for the prompts that share a band with another.
        threshold: in (0, 1].
        within: count resemblances inside one split.
        across: count resemblances between splits.

    Returns:
        prompt_id, other (str: the earliest prompt it resembles), same_split (bool).
    """
    own = bands[prompts["row"].to_numpy()]
    suspects = prompts.with_columns(place=pl.int_range(pl.len())).filter(pl.Series(_is_shared(own)))
    asked = comparable(texts(suspects["prompt_id"])).select("prompt_id", "normal", "context")
    suspects = suspects.join(asked, on="prompt_id", maintain_order="left")
    staying: dict[tuple[int, int], list[int]] = {}
    ids, splits = suspects["prompt_id"], suspects["split"].to_list()
    asking = list(suspects.select("normal", "context").iter_rows())
    found: list[tuple[str, str, bool]] = []
    for row, place in enumerate(suspects["place"]):
        keys = list(enumerate(own[place].tolist()))
        candidates = {other for key in keys for other in staying.get(key, ())}
        other = _resembled(row, candidates, asking, splits, threshold, within, across)
        if other is not None:
            found.append((ids[row], ids[other], splits[row] == splits[other]))
            continue
        for key in keys:
            staying.setdefault(key, []).append(row)
    return pl.DataFrame(
        found, schema={"prompt_id": pl.String, "other": pl.String, "same_split": pl.Boolean}, orient="row"
    )


class Resemblances:
    """Finds prompts that resemble one of a few others, or are the same; found as in `near_duplicates`."""

    def __init__(self, others: pl.DataFrame, threshold: float) -> None:
        """Args:
        others: prompt_id, normal, context, as `comparable` returns them.
        threshold: in (0, 1].
        """
        self._threshold = threshold
        self._index = rensa.RMinHashLSH(threshold, _PERMUTATIONS, _bands(threshold))
        self._ids = others["prompt_id"]
        self._known = [_shingles(text) for text in others["normal"]]
        for row, (shingles, context) in enumerate(zip(self._known, others["context"], strict=True)):
            self._index.insert(row, _sketch(shingles, context))

    def find(self, prompts: pl.DataFrame) -> pl.DataFrame:
        """prompt_id, other (str: the first of the others that it resembles).

        Args:
            prompts: prompt_id, normal, context, as `comparable` returns them.
        """
        found: list[tuple[str, str]] = []
        for prompt_id, text, context in prompts.select("prompt_id", "normal", "context").iter_rows():
            shingles = _shingles(text)
            candidates = sorted(self._index.query(_sketch(shingles, context)))
            alike = (row for row in candidates if jaccard(shingles, self._known[row]) >= self._threshold)
            other = next(alike, None)
            if other is not None:
                found.append((prompt_id, self._ids[other]))
        return pl.DataFrame(found, schema={"prompt_id": pl.String, "other": pl.String}, orient="row")


def bands_of(prompts: pl.DataFrame, threshold: float) -> Bands:
    """The MinHash bands of prompts.

    Args:
        prompts: normal, context, as `comparable` returns them.
    """
    bands = _bands(threshold)
    parts = [
        _digests(part).reshape(part.height, bands, _PERMUTATIONS // bands)
        for part in prompts.iter_slices(_SKETCHED_TOGETHER)
    ]
    if not parts:
        return np.empty((0, bands), dtype=np.uint32)
    powers = np.cumprod(np.full(_PERMUTATIONS // bands, _MULTIPLIER))
    return np.concatenate([((part * powers).sum(axis=2) >> np.uint64(32)).astype(np.uint32) for part in parts])


def _digests(prompts: pl.DataFrame) -> NDArray[np.uint64]:
    tokens = [_tokens(_shingles(text), context) for text, context in prompts.select("normal", "context").iter_rows()]
    matrix: Any = rensa.RMinHash.digest_matrix_from_token_sets(tokens, _PERMUTATIONS, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint64)


def _is_shared(bands: Bands) -> NDArray[np.bool_]:
    """Whether each row is equal to another one in a band."""
    shared = np.zeros(len(bands), dtype=bool)
    for column in bands.T:
        order = np.argsort(column)
        ordered = column[order]
        equal = np.flatnonzero(ordered[1:] == ordered[:-1])
        shared[order[equal]] = shared[order[equal + 1]] = True
    return shared


def _in_order(prompts: pl.DataFrame) -> pl.DataFrame:
    return prompts.sort(pl.col("split").replace_strict(_RANK, return_dtype=pl.Int8), "prompt_id")


def jaccard(left: set[str], right: set[str]) -> float:
    """|A ∩ B| / |A ∪ B| of two non-empty sets."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def _resembled(
    row: int,
    candidates: Iterable[int],
    asking: list[tuple[str, str]],
    splits: list[str],
    threshold: float,
    within: bool,
    across: bool,
) -> int | None:
    text, context = asking[row]
    shingles = _shingles(text)
    for candidate in sorted(candidates):
        other, under = asking[candidate]
        counts = within if splits[candidate] == splits[row] else across
        if counts and under == context and jaccard(shingles, _shingles(other)) >= threshold:
            return candidate
    return None


def _sketch(shingles: set[str], context: str) -> rensa.RMinHash:
    sketch = rensa.RMinHash(_PERMUTATIONS, _SEED)
    sketch.update(_tokens(shingles, context))
    return sketch


def _tokens(shingles: set[str], context: str) -> list[str]:
    """The context is part of every token: prompts under different system prompts share none."""
    return [context + shingle for shingle in shingles]


def _shingles(text: str) -> set[str]:
    """Character 5-grams; a shorter text is its own only one."""
    return {text[start : start + SHINGLE_CHARS] for start in range(len(text) - SHINGLE_CHARS + 1)} or {text}


def _bands(threshold: float) -> int:
    """The fewest bands b (of r = permutations / b rows) that find a pair at the threshold: 1 - (1 - t^r)^b ≥ recall."""
    divisors = [bands for bands in range(1, _PERMUTATIONS + 1) if _PERMUTATIONS % bands == 0]
    return next(
        (bands for bands in divisors if 1 - (1 - threshold ** (_PERMUTATIONS // bands)) ** bands >= _RECALL),
        _PERMUTATIONS,
    )
