"""Decides for every teacher answer whether a student may learn it, and gives a reason wherever not."""

from dataclasses import dataclass
from functools import partial

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from distill_dagster.dataset.duplicates import (
    Questions,
    Texts,
    comparable,
    exact_duplicates,
    near_duplicates,
    resemblances,
    sketched,
)
from distill_dagster.prompts.splits import LEARNT_FROM, Split
from distill_dagster.spec.curation import CurationSpec, DropReason

KEPT_SCHEMA: dict[str, DataType | DataTypeClass] = {
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
    "label_shares": pl.String,
    "split": pl.String,
}
# What the teacher stage found about an answer; older files lack these columns.
_ASSESSMENT = {"problem": pl.String, "label": pl.String, "label_shares": pl.String, "selected": pl.Boolean}
DROPPED_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "partition": pl.String,
    "split": pl.String,
    "reason": pl.String,
    "detail": pl.String,
}
# What is remembered of a usable answer until all are known.
_USABLE = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "partition": pl.String,
    "split": pl.String,
    "group_id": pl.String,
    "repeats": pl.Boolean,
}
NO_OUTPUT = "no teacher output"
ROW = ("prompt_id", "sample")
_PLACE = (*ROW, "partition", "split")


@dataclass(frozen=True)
class Curated:
    """Every (prompt, sample), once: kept, or dropped for one reason.

    Args:
        kept: prompt_id, sample, split, sorted by prompt_id, sample.
        dropped: DROPPED columns, sorted likewise. `detail` is the error's text, the refusal's category, or the id of
            the prompt that stays.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame

    @property
    def drop_counts(self) -> dict[str, int]:
        """Dropped answers by reason."""
        return dict(sorted(self.dropped["reason"].value_counts().iter_rows()))


class Curation:
    """Sorts answers into kept and dropped, with a partition's texts in memory at a time.

    An answer without a text to learn (error, refused, tool_use, empty), one that is not what was declared
    (invalid_label, invalid_json) and one whose prompt is learnt from another sample (not_selected) are dropped whether
    or not `spec.drop` lists them; so is one whose group has rows in a held-out partition (held_out_group), for groups
    never straddle splits. The list decides on the others. Among prompts that ask the same, held_out outranks test
    outranks validation outranks train, then the smaller prompt_id stays, with all its samples that differ. Only
    answers that are otherwise usable take part. An answer that falls to several reasons has the first in the order of
    `DropReason`.
    """

    def __init__(self, spec: CurationSpec, golden: pl.DataFrame | None = None) -> None:
        """Args:
        spec: the `curation:` block.
        golden: the golden set's prompt_id, text and student_messages. What resembles one of its rows is kept out of
            train and validation (golden_leakage), whatever `spec.drop` lists.
        """
        self._spec = spec
        self._golden = _held(golden, spec.near_duplicate_threshold) if golden is not None else None
        self._within, self._across = "near_duplicate" in spec.drop, "test_leakage" in spec.drop
        self._questions = Questions()
        self._usable = [pl.DataFrame(schema=_USABLE)]
        self._dropped = [pl.DataFrame(schema=DROPPED_SCHEMA)]

    def add(self, prompts: pl.DataFrame, outputs: pl.DataFrame) -> pl.DataFrame:
        """Takes a part of the prompts with their answers.

        Args:
            prompts: PROMPTS columns; every prompt_id once.
            outputs: OUTPUTS columns; those of the assessment may be missing. A prompt without output is dropped as
                `error`.

        Returns:
            KEPT columns of the answers that are kept unless another part speaks against them.
        """
        answers = prompts.join(with_assessment(outputs), on="prompt_id", how="left")
        answers = answers.with_columns(reason=_unusable(self._spec), detail=_detail())
        self._drop(answers.filter(pl.col("reason").is_not_null()))
        usable = _targets(answers.filter(pl.col("reason").is_null()).drop("reason", "detail"), self._spec)
        if self._golden is not None or {"duplicate", "near_duplicate", "test_leakage"}.intersection(self._spec.drop):
            usable = self._remembered(usable)
        self._usable.append(usable.with_columns(repeats=_repeats()).select(list(_USABLE)))
        return usable.select(list(KEPT_SCHEMA))

    def _remembered(self, usable: pl.DataFrame) -> pl.DataFrame:
        """The answers whose prompts resemble no golden row; what the prompts ask is kept in mind."""
        threshold = self._spec.near_duplicate_threshold
        asked = comparable(usable.unique("prompt_id"))
        if self._within or self._across or self._golden is not None:
            asked = sketched(asked, threshold)
        if self._golden is not None:
            leaked = resemblances(asked.filter(pl.col("split").is_in(LEARNT_FROM)), self._golden, threshold)
            gone = _for_prompts(usable, leaked, pl.lit(DropReason.GOLDEN_LEAKAGE.value))
            self._drop(gone)
            usable, asked = _without(usable, gone), asked.join(gone, on="prompt_id", how="anti", maintain_order="left")
        self._questions.add(asked)
        return usable

    def finish(self, texts: Texts) -> Curated:
        """Decides on all parts together.

        Args:
            texts: asked for those prompts that may resemble others.
        """
        usable = pl.concat(self._usable)
        for step in (_held_out_groups, self._exact, partial(self._near, texts)):
            gone = step(usable)
            self._drop(gone)
            usable = _without(usable, gone)
        return Curated(kept=usable.select(*ROW, "split").sort(ROW), dropped=pl.concat(self._dropped).sort(ROW))

    def _drop(self, gone: pl.DataFrame) -> None:
        self._dropped.append(gone.select(list(DROPPED_SCHEMA)))

    def _exact(self, usable: pl.DataFrame) -> pl.DataFrame:
        if "duplicate" not in self._spec.drop:
            return pl.DataFrame(schema=DROPPED_SCHEMA)
        found = exact_duplicates(usable, self._questions.of(usable["prompt_id"]))
        return usable.join(found, on=ROW).select(
            *_PLACE, pl.lit(DropReason.DUPLICATE.value).alias("reason"), pl.col("other").alias("detail")
        )

    def _near(self, texts: Texts, usable: pl.DataFrame) -> pl.DataFrame:
        if not (self._within or self._across):
            return pl.DataFrame(schema=DROPPED_SCHEMA)
        prompts = self._questions.of(usable["prompt_id"])
        found = near_duplicates(
            prompts, texts, self._spec.near_duplicate_threshold, within=self._within, across=self._across
        )
        reason = (
            pl.when("same_split")
            .then(pl.lit(DropReason.NEAR_DUPLICATE.value))
            .otherwise(pl.lit(DropReason.TEST_LEAKAGE.value))
        )
        return _for_prompts(usable, found, reason)


def with_assessment(outputs: pl.DataFrame) -> pl.DataFrame:
    """Outputs with all columns of the assessment; an answer that was never assessed is valid and selected."""
    unknown = {name: pl.lit(None, dtype) for name, dtype in _ASSESSMENT.items() if name not in outputs.columns}
    return outputs.with_columns(**unknown).with_columns(pl.col("selected").fill_null(True))


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
    return (
        expression.when(blank)
        .then(pl.lit(DropReason.EMPTY.value))
        .when(pl.col("problem").is_not_null())
        .then("problem")
        .when(~pl.col("selected"))
        .then(pl.lit(DropReason.NOT_SELECTED.value))
        .otherwise(pl.lit(None, dtype=pl.String))
    )


def _detail() -> pl.Expr:
    return pl.when(pl.col("status").is_null()).then(pl.lit(NO_OUTPUT)).otherwise(pl.col("detail"))


def _held_out_groups(usable: pl.DataFrame) -> pl.DataFrame:
    is_held_out = pl.col("split") == Split.HELD_OUT.value
    owners = usable.filter(is_held_out).group_by("group_id").agg(detail=pl.col("prompt_id").min())
    return (
        usable.filter(~is_held_out)
        .join(owners, on="group_id")
        .select(*_PLACE, pl.lit(DropReason.HELD_OUT_GROUP.value).alias("reason"), "detail")
    )


def golden_leakage(rows: pl.DataFrame, golden: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """The rows that ask what a golden row asks: prompt_id and other (str: the golden row's prompt_id).

    Args:
        rows: prompt_id, split, text, student_messages; one row a prompt.
        golden: prompt_id, text, student_messages.
        threshold: least Jaccard similarity of the prompts' character 5-grams.
    """
    return resemblances(sketched(comparable(rows), threshold), _held(golden, threshold), threshold)


def _held(golden: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """The golden set as `sketched` returns it."""
    return sketched(comparable(golden.with_columns(split=pl.lit(Split.TEST.value))), threshold)


def _repeats() -> pl.Expr:
    """Whether an answer says what a smaller sample of its prompt says."""
    return pl.col("sample") != pl.col("sample").min().over("prompt_id", "completion")


def _for_prompts(usable: pl.DataFrame, found: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    """DROPPED columns of all answers to the prompts that were found to resemble `other`."""
    return usable.join(found, on="prompt_id").select(*_PLACE, reason.alias("reason"), pl.col("other").alias("detail"))


def _without(usable: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    return usable.join(gone.select(ROW), on=ROW, how="anti", maintain_order="left")


def _targets(usable: pl.DataFrame, spec: CurationSpec) -> pl.DataFrame:
    """What the student reads and what it is to answer.

    A label is learnt as it is declared. The stored token ids are those of the answer as it was given, with its
    thinking, so they are the target's only where both are.
    """
    thought = pl.col("thinking").is_not_null()
    answer = pl.coalesce("label", "completion")
    as_given = answer == pl.col("completion")
    if spec.thinking == "include":
        marked = pl.format("<think>\n{}\n</think>\n\n{}", pl.col("thinking"), answer)
        target = pl.when(thought).then(marked).otherwise(answer)
    else:
        target, as_given = answer, as_given & ~thought
    return usable.with_columns(
        completion=target,
        completion_ids=pl.when(as_given).then("token_ids").cast(pl.List(pl.Int32)),
        messages=pl.col("student_messages"),
    )
