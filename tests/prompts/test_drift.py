"""Whether prompts have drifted: what is kept of a version, and what is said of the next."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.drift import ALPHA, Drift, drift, lengths_change, shares_change, words_change
from distill_dagster.prompts.profile import (
    LENGTH_BINS,
    Profile,
    keep_profile,
    profile_of,
    profiles,
    retire_profiles,
)
from distill_dagster.prompts.store import PROFILE_FILE, prompts_file, rewrite_without, write_prompts

Declare = Callable[..., Distillation]
GARDEN = ["rose", "tulip", "shovel", "border", "hedge", "compost", "watering", "trellis", "mulch", "orchard"]
KITCHEN = ["saucepan", "whisk", "oven", "dough", "simmer", "pepper", "basil", "knife", "butter", "kettle"]


def texts(words: Sequence[str], count: int, *, seed: int, length: int = 8) -> list[str]:
    """Prompts of so many of the words, drawn at random."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(length - 3, length + 3))) for _ in range(count)]


@pytest.fixture
def make(declare: Declare, folder: Path) -> Callable[..., Drift | None]:
    """Makes the next version of the prompts, by topic, as the step does, and compares it with the one before."""
    versions = iter(range(1, 100))

    def make_it(only: Sequence[str] | None = None, **topics: Sequence[str]) -> Drift | None:
        lines = [json.dumps({"topic": topic, "question": text}) for topic, some in topics.items() for text in some]
        (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        distillation = declare(partition={"by": "topic"})
        build, at = build_prompts(distillation), f"2026-01-{next(versions):02}"
        retire_profiles(distillation, build.names, at)
        for name, made in build.partitions.items():
            if only is None or name in only:
                keep_profile(distillation, name, made, at)
                write_prompts(distillation, name, made)
        return drift(distillation)

    return make_it


def test_the_first_version_has_nothing_to_compare_with(make: Callable[..., Drift | None]) -> None:
    assert make(garden=texts(GARDEN, 50, seed=1)) is None


def test_other_prompts_of_the_same_kind_are_no_drift(make: Callable[..., Drift | None]) -> None:
    make(garden=texts(GARDEN, 300, seed=1), kitchen=texts(KITCHEN, 200, seed=2))

    found = make(garden=texts(GARDEN, 320, seed=3), kitchen=texts(KITCHEN, 200, seed=2))

    assert found is not None
    assert [one.name for one in found.partitions] == ["garden"]
    for one in (found.whole, *found.partitions):
        assert one.lengths is not None
        assert one.words is not None
        assert not one.lengths.has_drifted
        assert not one.words.has_drifted
    assert (found.whole.rows_before, found.whole.rows_now) == (500, 520)
    assert found.shares is not None
    assert not found.shares.has_drifted


def test_longer_prompts_are_found_in_their_partition(make: Callable[..., Drift | None]) -> None:
    make(garden=texts(GARDEN, 200, seed=1), kitchen=texts(KITCHEN, 3000, seed=2))

    found = make(garden=texts(GARDEN, 200, seed=3, length=24), kitchen=texts(KITCHEN, 3000, seed=2))

    assert found is not None
    (garden,) = found.partitions
    assert garden.lengths is not None
    assert garden.lengths.has_drifted
    assert garden.words is not None
    assert not garden.words.has_drifted
    assert found.whole.lengths is not None
    assert not found.whole.lengths.has_drifted  # of all prompts they are few


def test_other_topics_are_found_by_their_words(make: Callable[..., Drift | None]) -> None:
    make(garden=texts(GARDEN, 200, seed=1))

    found = make(garden=[*texts(GARDEN, 60, seed=1), *texts(KITCHEN, 140, seed=3)])

    assert found is not None
    assert found.partitions == ()  # one partition is the whole
    assert found.whole.words is not None
    assert found.whole.words.has_drifted


def test_a_topic_that_grows_or_goes_moves_the_shares(make: Callable[..., Drift | None]) -> None:
    garden, kitchen = texts(GARDEN, 100, seed=1), texts(KITCHEN, 100, seed=2)
    make(garden=garden, kitchen=kitchen)

    grown = make(garden=garden, kitchen=[*kitchen, *texts(KITCHEN, 500, seed=3)])
    gone = make(garden=garden)

    assert grown is not None
    assert grown.rows["kitchen"] == (100, 600)
    assert grown.shares is not None
    assert grown.shares.has_drifted
    assert gone is not None
    assert gone.rows == {"garden": (100, 100), "kitchen": (600, 0)}
    assert gone.shares is not None
    assert gone.shares.has_drifted


def test_partitions_made_one_after_the_other_are_each_compared_with_their_own_past(
    make: Callable[..., Drift | None],
) -> None:
    old = {"garden": texts(GARDEN, 200, seed=1), "kitchen": texts(KITCHEN, 200, seed=2)}
    new = {"garden": texts(GARDEN, 200, seed=3), "kitchen": texts(KITCHEN, 200, seed=4, length=30)}
    make(**old)

    first, second = make(only=["garden"], **new), make(only=["kitchen"], **new)

    assert first is not None
    assert second is not None
    assert [(one.name, one.lengths and one.lengths.has_drifted) for one in first.partitions] == [("garden", False)]
    assert [(one.name, one.lengths and one.lengths.has_drifted) for one in second.partitions] == [("kitchen", True)]


def test_making_the_same_again_keeps_the_comparison(make: Callable[..., Drift | None]) -> None:
    make(garden=texts(GARDEN, 50, seed=1))
    found = make(garden=texts(KITCHEN, 60, seed=2))

    assert make(garden=texts(KITCHEN, 60, seed=2)) == found


def test_prompts_from_before_profiles_were_kept_are_compared_too(
    make: Callable[..., Drift | None], declare: Declare
) -> None:
    make(garden=texts(GARDEN, 100, seed=1))
    files = declare(partition={"by": "topic"}).files.asset("prompts", "garden")
    (files / PROFILE_FILE).unlink()

    found = make(garden=texts(KITCHEN, 100, seed=2))

    assert found is not None
    assert found.whole.rows_before == 100


def test_a_profile_has_no_text_and_goes_with_a_forgotten_prompt(
    make: Callable[..., Drift | None], declare: Declare
) -> None:
    make(garden=[*texts(GARDEN, 20, seed=1), "the wheelbarrow"])
    distillation = declare(partition={"by": "topic"})
    path = distillation.files.asset("prompts", "garden") / PROFILE_FILE
    assert "wheelbarrow" not in path.read_text(encoding="utf-8")
    file = prompts_file(distillation, "garden")
    forgotten = pl.read_parquet(file).filter(text="the wheelbarrow")["prompt_id"].to_list()

    rewrite_without(file, forgotten)

    assert list(profiles(distillation)) == []


def test_profiles_of_parts_add_up_to_that_of_the_whole() -> None:
    some, others = texts(GARDEN, 30, seed=1), [*texts(KITCHEN, 40, seed=2), "", "東京はどこですか"]

    added, whole = profile_of(pl.Series(some)) + profile_of(pl.Series(others)), profile_of(pl.Series(some + others))

    assert (added.rows, added.lengths, added.read) == (whole.rows, whole.lengths, whole.read)
    assert (whole.rows, sum(whole.lengths), whole.read) == (72, 72, 71)
    assert added.words == pytest.approx(whole.words, abs=1e-4)
    assert sum(whole.words) == pytest.approx(71, abs=1e-3)
    assert added.squares == pytest.approx(whole.squares, abs=1e-4)


def test_the_index_is_the_symmetrised_divergence_of_the_shares() -> None:
    before, now = np.array([30.0, 50.0, 20.0]), np.array([60.0, 90.0, 50.0])
    p, q = (before + 0.5) / (before + 0.5).sum(), (now + 0.5) / (now + 0.5).sum()

    change = shares_change({str(i): (int(before[i]), int(now[i])) for i in range(3)}, ALPHA)

    assert change is not None
    assert change.index == pytest.approx((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())
    assert change.chance == pytest.approx((1 / 100 + 1 / 200) * -2 * math.log(ALPHA))  # χ² of two degrees of freedom


def test_chance_alone_passes_its_bound_as_rarely_as_it_says() -> None:
    draw = np.random.default_rng(5)
    shares = draw.dirichlet(np.full(12, 3.0))
    over = 0
    for _ in range(600):
        counts = (draw.multinomial(rows, shares) for rows in (150, 400))
        before, now = (
            Profile(rows=int(c.sum()), lengths=(*map(int, c), *(0,) * (LENGTH_BINS - len(c)))) for c in counts
        )
        change = lengths_change(before, now, 0.05)
        assert change is not None
        over += change.index > change.chance
    assert 10 <= over <= 55  # 30 expected


def test_words_of_one_prompt_are_no_independent_draws() -> None:
    """Prompts of one word repeated count like one word; the bound is as wide as with single words."""
    draw = random.Random(3)
    single = [[draw.choice(GARDEN) for _ in range(80)] for _ in range(2)]
    once, repeated = ([profile_of(pl.Series([" ".join([w] * k) for w in side])) for side in single] for k in (1, 9))

    assert words_change(*once, ALPHA) == words_change(*repeated, ALPHA)
    mixed = [profile_of(pl.Series(texts(GARDEN, 80, seed=seed))) for seed in (1, 2)]
    narrow, wide = words_change(*mixed, ALPHA), words_change(*once, ALPHA)
    assert narrow is not None
    assert wide is not None
    assert narrow.chance < wide.chance / 3
