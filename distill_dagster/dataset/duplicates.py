"""Finds prompts that ask the same: equal after normalisation, or alike by the Jaccard similarity of their 5-grams."""

from collections.abc import Iterable

import polars as pl
import rensa

from distill_dagster.prompts.identity import normalise
from distill_dagster.prompts.splits import Split, sha256_hex

SHINGLE_CHARS = 5
_PERMUTATIONS = 120  # divisible in many ways, so that bands can fit the threshold
_SEED = 17
_RECALL = 0.999
_RANK = {split.value: rank for rank, split in enumerate(Split)}
_CONTEXT_CHARS = 16


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
    ordered = prompts.sort(pl.col("split").replace_strict(_RANK, return_dtype=pl.Int8), "prompt_id")
    return ordered.select(
        "prompt_id",
        "split",
        pl.Series("normal", map(normalise, ordered["text"]), dtype=pl.String),
        sha256_hex(system.fill_null("")).str.slice(0, _CONTEXT_CHARS).alias("context"),
    )


def exact_duplicates(answers: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Answers to a prompt that another prompt asks too, and answers that repeat another sample of their prompt.

    Several different answers to one prompt are no duplicates. Of equal ones the smallest sample stays.

    Args:
        answers: prompt_id, sample, completion.
        prompts: as `comparable` returns them; all of them have an answer.

    Returns:
        prompt_id, sample, other (str: the prompt that stays).
    """
    first = pl.col("prompt_id").first().over("normal", "context")
    owners = prompts.select("prompt_id", other=first)
    repeats = pl.col("sample") != pl.col("sample").min().over("prompt_id", "completion")
    answers = answers.select("prompt_id", "sample", repeats=repeats).join(owners, on="prompt_id")
    return answers.filter((pl.col("prompt_id") != pl.col("other")) | pl.col("repeats")).drop("repeats")


def near_duplicates(prompts: pl.DataFrame, threshold: float, *, within: bool, across: bool) -> pl.DataFrame:
    """Prompts that resemble one that stays.

    Greedy in the frame's order: a prompt goes where an earlier one that stays has a Jaccard similarity of at least
    `threshold` on character 5-grams of the normalised text. MinHash bands (Broder 1997; Leskovec, Rajaraman, Ullman,
    "Mining of Massive Datasets", 3.4) propose candidates, and the exact similarity decides. A similarity at the
    threshold is found with a probability of at least 0.999.

    Args:
        prompts: as `comparable` returns them.
        threshold: in (0, 1].
        within: count resemblances inside one split.
        across: count resemblances between splits.

    Returns:
        prompt_id, other (str: the earliest prompt it resembles), same_split (bool).
    """
    index = rensa.RMinHashLSH(threshold, _PERMUTATIONS, _bands(threshold))
    ids, splits, texts = prompts["prompt_id"], prompts["split"].to_list(), prompts["normal"].to_list()
    found: list[tuple[str, str, bool]] = []
    for row, context in enumerate(prompts["context"]):
        shingles = _shingles(texts[row])
        sketch = _sketch(shingles, context)
        other = _resembled(row, shingles, index.query(sketch), texts, splits, threshold, within, across)
        if other is None:
            index.insert(row, sketch)
        else:
            found.append((ids[row], ids[other], splits[row] == splits[other]))
    return pl.DataFrame(
        found, schema={"prompt_id": pl.String, "other": pl.String, "same_split": pl.Boolean}, orient="row"
    )


def resemblances(prompts: pl.DataFrame, others: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Prompts that resemble one of `others`, or are the same; found as in `near_duplicates`.

    Args:
        prompts, others: prompt_id, normal, context, as `comparable` returns them.
        threshold: in (0, 1].

    Returns:
        prompt_id, other (str: the first of `others` that it resembles).
    """
    index = rensa.RMinHashLSH(threshold, _PERMUTATIONS, _bands(threshold))
    known = [_shingles(text) for text in others["normal"]]
    for row, (shingles, context) in enumerate(zip(known, others["context"], strict=True)):
        index.insert(row, _sketch(shingles, context))
    found: list[tuple[str, str]] = []
    for prompt_id, text, context in prompts.select("prompt_id", "normal", "context").iter_rows():
        shingles = _shingles(text)
        candidates = sorted(index.query(_sketch(shingles, context)))
        other = next((row for row in candidates if jaccard(shingles, known[row]) >= threshold), None)
        if other is not None:
            found.append((prompt_id, others["prompt_id"][other]))
    return pl.DataFrame(found, schema={"prompt_id": pl.String, "other": pl.String}, orient="row")


def jaccard(left: set[str], right: set[str]) -> float:
    """|A ∩ B| / |A ∪ B| of two non-empty sets."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


def _resembled(
    row: int,
    shingles: set[str],
    candidates: Iterable[int],
    texts: list[str],
    splits: list[str],
    threshold: float,
    within: bool,
    across: bool,
) -> int | None:
    for candidate in sorted(candidates):
        counts = within if splits[candidate] == splits[row] else across
        if counts and jaccard(shingles, _shingles(texts[candidate])) >= threshold:
            return candidate
    return None


def _sketch(shingles: set[str], context: str) -> rensa.RMinHash:
    """The context is part of every token: prompts under different system prompts share none."""
    sketch = rensa.RMinHash(_PERMUTATIONS, _SEED)
    sketch.update([context + shingle for shingle in shingles])
    return sketch


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
