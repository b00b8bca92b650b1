"""Decides for every teacher answer whether a student may learn it, and gives a reason wherever not."""

from dataclasses import dataclass

import polars as pl

from distill_dagster.dataset.duplicates import comparable, exact_duplicates, near_duplicates
from distill_dagster.spec.curation import CurationSpec, DropReason

KEPT_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "partition": pl.String,
    "group_id": pl.String,
    "request_key": pl.String,
    "messages": pl.String,
    "text": pl.String,
    "completion": pl.String,
    "completion_ids": pl.List(pl.Int32),
    "reference": pl.String,
    "split": pl.String,
}
DROPPED_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "partition": pl.String,
    "split": pl.String,
    "reason": pl.String,
    "detail": pl.String,
}
NO_OUTPUT = "no teacher output"


@dataclass(frozen=True)
class Curated:
    """Every (prompt, sample), once: kept, or dropped for one reason.

    Args:
        kept: DATASET columns and `split`, sorted by prompt_id, sample.
        dropped: DROPPED columns, sorted likewise. `detail` is the error's text, the refusal's category, or the id of
            the prompt that stays.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame

    @property
    def drop_counts(self) -> dict[str, int]:
        """Dropped answers by reason."""
        return dict(sorted(self.dropped["reason"].value_counts().iter_rows()))


def curate(prompts: pl.DataFrame, outputs: pl.DataFrame, spec: CurationSpec) -> Curated:
    """Sorts answers into kept and dropped.

    An answer without a text to learn (error, refused, tool_use, empty) is dropped whether or not `spec.drop` lists it;
    the list decides on the others. Among prompts that ask the same, test outranks validation outranks train, then the
    smaller prompt_id stays. Only answers that are otherwise usable take part. An answer that falls to several reasons
    has the first in the order of `DropReason`.

    Args:
        prompts: PROMPTS columns; every prompt_id once.
        outputs: OUTPUTS columns. A prompt without output is dropped as `error`.
        spec: the `curation:` block.
    """
    answers = prompts.join(outputs, on="prompt_id", how="left")
    answers = answers.with_columns(reason=_unusable(spec), detail=_detail())
    dropped = [answers.filter(pl.col("reason").is_not_null())]
    usable = answers.filter(pl.col("reason").is_null()).drop("reason", "detail")
    for step in (_exact, _near):
        gone = step(usable, spec)
        dropped.append(gone)
        usable = usable.join(gone.select("prompt_id", "sample"), on=["prompt_id", "sample"], how="anti")
    return Curated(
        kept=_targets(usable, spec).select(list(KEPT_SCHEMA)).sort("prompt_id", "sample"),
        dropped=pl.concat(frame.select(list(DROPPED_SCHEMA)) for frame in dropped).sort("prompt_id", "sample"),
    )


def _unusable(spec: CurationSpec) -> pl.Expr:
    """The reason that an answer has by itself; null where it is usable."""
    status = pl.col("status")
    blank = pl.col("completion").fill_null("").str.strip_chars() == ""
    expression = (
        pl.when(status.is_null() | (status == "error"))
        .then(pl.lit(DropReason.ERROR.value))
        .when(status == "refused")
        .then(pl.lit(DropReason.REFUSED.value))
        .when((status == "truncated") & pl.lit("truncated" in spec.drop))
        .then(pl.lit(DropReason.TRUNCATED.value))
        .when(status == "tool_use")
        .then(pl.lit(DropReason.TOOL_USE.value))
    )
    return expression.when(blank).then(pl.lit(DropReason.EMPTY.value)).otherwise(pl.lit(None, dtype=pl.String))


def _detail() -> pl.Expr:
    return pl.when(pl.col("status").is_null()).then(pl.lit(NO_OUTPUT)).otherwise(pl.col("detail"))


def _exact(usable: pl.DataFrame, spec: CurationSpec) -> pl.DataFrame:
    if "duplicate" not in spec.drop:
        return pl.DataFrame(schema=DROPPED_SCHEMA)
    found = exact_duplicates(usable, comparable(usable.unique("prompt_id")))
    return usable.join(found, on=["prompt_id", "sample"]).select(
        *_place(), pl.lit(DropReason.DUPLICATE.value).alias("reason"), pl.col("other").alias("detail")
    )


def _near(usable: pl.DataFrame, spec: CurationSpec) -> pl.DataFrame:
    within, across = "near_duplicate" in spec.drop, "test_leakage" in spec.drop
    if not (within or across):
        return pl.DataFrame(schema=DROPPED_SCHEMA)
    prompts = comparable(usable.unique("prompt_id"))
    found = near_duplicates(prompts, spec.near_duplicate_threshold, within=within, across=across)
    reason = (
        pl.when("same_split")
        .then(pl.lit(DropReason.NEAR_DUPLICATE.value))
        .otherwise(pl.lit(DropReason.TEST_LEAKAGE.value))
    )
    return usable.join(found, on="prompt_id").select(*_place(), reason.alias("reason"), pl.col("other").alias("detail"))


def _place() -> list[str]:
    return ["prompt_id", "sample", "partition", "split"]


def _targets(usable: pl.DataFrame, spec: CurationSpec) -> pl.DataFrame:
    """What the student reads and what it is to answer.

    The stored token ids contain a thinking, so they are the target's only where thinking is included or absent.
    """
    thought = pl.col("thinking").is_not_null()
    if spec.thinking == "include":
        marked = pl.format("<think>\n{}\n</think>\n\n{}", pl.col("thinking"), pl.col("completion"))
        completion, ids = pl.when(thought).then(marked).otherwise("completion"), pl.col("token_ids")
    else:
        completion, ids = pl.col("completion"), pl.when(~thought).then("token_ids")
    return usable.with_columns(
        completion=completion, completion_ids=ids.cast(pl.List(pl.Int32)), messages=pl.col("student_messages")
    )
