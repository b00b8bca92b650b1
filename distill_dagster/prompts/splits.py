"""Deals groups to train, validation and test by their hash alone, so that adding prompts never moves an old one."""

from enum import StrEnum

import polars as pl
import polars_hash as plh

from distill_dagster.spec.prompts import SplitSpec

_SALT = "split:v1:"
_TWO_64 = float(2**64)


class Split(StrEnum):
    """The three splits, in the order in which they win a duplicate."""

    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"


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
