"""Splits by hash: near the declared shares, and stable while prompts come and go."""

import hashlib

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.prompts.splits import split_of
from distill_dagster.spec.prompts import SplitSpec

groups = st.lists(st.text("0123456789abcdef", min_size=1, max_size=32), min_size=1, max_size=50, unique=True)
shares = st.floats(0, 0.49)


def splits(group_ids: list[str], spec: SplitSpec) -> dict[str, str]:
    frame = pl.DataFrame({"g": group_ids}, schema={"g": pl.String})
    return dict(zip(group_ids, frame.select(split_of(pl.col("g"), spec)).to_series(), strict=True))


@given(groups, groups, shares, shares)
def test_adding_prompts_moves_no_old_one(old: list[str], new: list[str], validation: float, test: float) -> None:
    spec = SplitSpec(validation=validation, test=test)

    before, after = splits(old, spec), splits(sorted({*old, *new}), spec)

    assert all(after[group] == split for group, split in before.items())


@given(groups, shares)
def test_a_larger_test_share_only_adds_to_the_test_split(group_ids: list[str], test: float) -> None:
    small, large = (splits(group_ids, SplitSpec(validation=0, test=share)) for share in (test, test + 0.5))

    assert all(large[group] == "test" for group, split in small.items() if split == "test")


@given(groups, shares, shares)
def test_the_formula_is_the_documented_one(group_ids: list[str], validation: float, test: float) -> None:
    for group, split in splits(group_ids, SplitSpec(validation=validation, test=test)).items():
        u = int(hashlib.sha256(f"split:v1:{group}".encode()).hexdigest()[:16], 16) / 2**64
        assert split == ("test" if u < test else "validation" if u < test + validation else "train")


def test_shares_are_close_to_the_declared_ones() -> None:
    dealt = list(splits([str(i) for i in range(20_000)], SplitSpec(validation=0.1, test=0.2)).values())

    assert abs(dealt.count("test") / 20_000 - 0.2) < 0.01
    assert abs(dealt.count("validation") / 20_000 - 0.1) < 0.01


def test_a_share_of_zero_is_empty() -> None:
    dealt = splits([str(i) for i in range(1000)], SplitSpec(validation=0, test=0))

    assert set(dealt.values()) == {"train"}
