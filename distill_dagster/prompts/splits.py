"""Deals groups to train, validation and test by their hash alone, so that adding prompts never moves an old one.

Partitions that are held out go whole to a split of their own, whatever their groups.
"""

from collections.abc import Collection, Sequence
from enum import StrEnum

import polars as pl
import polars_hash as plh

from distill_dagster.errors import SpecError
from distill_dagster.spec.prompts import SplitSpec

_SALT = "split:v1:"
_TWO_64 = float(2**64)


class Split(StrEnum):
    """The splits, in the order in which they win a duplicate."""

    HELD_OUT = "held_out"
    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"


LEARNT_FROM = (Split.TRAIN.value, Split.VALIDATION.value)
"""The splits that training reads."""


def sha256_hex(text: pl.Expr) -> pl.Expr:
    """SHA-256 of a text expression, as 64 hex characters; null stays null."""
    return plh.CryptographicHashingNameSpace(text).sha2_256()


def split_of(group_id: pl.Expr, spec: SplitSpec) -> pl.Expr:
    """The split of each group.

    u = the first 64 bits of SHA-256("split:v1:" + group id) / 2⁶⁴; test below the test share, validation below the
    sum of both, else train.
    """
    head = sha256_hex(pl.concat_str(pl.lit(_SALT), group_id)).str.slice(0, 16)
    u = head.str.to_integer(base=16, dtype=pl.UInt64).cast(pl.Float64) / _TWO_64
    return (
        pl.when(u < spec.test)
        .then(pl.lit(Split.TEST.value))
        .when(u < spec.test + spec.validation)
        .then(pl.lit(Split.VALIDATION.value))
        .otherwise(pl.lit(Split.TRAIN.value))
    )


def with_splits(prompts: pl.DataFrame, spec: SplitSpec, held_out: Sequence[str]) -> pl.DataFrame:
    """Prompts with the column `split`.

    Args:
        prompts: group_id, partition; a `split` they have is replaced.
        spec: the declared shares.
        held_out: partitions that go to `held_out` whole.
    """
    is_held_out = pl.col("partition").is_in(list(held_out))
    dealt = split_of(pl.col("group_id"), spec)
    return prompts.with_columns(split=pl.when(is_held_out).then(pl.lit(Split.HELD_OUT.value)).otherwise(dealt))


def check_held_out(held_out: Sequence[str], known: Collection[str]) -> None:
    """Makes sure that held-out partitions exist, and that others are left.

    Raises:
        SpecError: a name is no partition, or all partitions are held out.
    """
    strangers = [name for name in held_out if name not in known]
    if strangers:
        raise SpecError(
            f"evaluation.held_out_partitions: no partition {', '.join(map(repr, strangers))} "
            f"(known: {', '.join(sorted(known))})"
        )
    if known and set(known) <= set(held_out):
        raise SpecError(
            "evaluation.held_out_partitions: every partition is held out, so nothing is left to train on; "
            "leave at least one out of the list"
        )
