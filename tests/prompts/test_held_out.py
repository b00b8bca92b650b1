"""Partitions that are held out go whole to a split of their own, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.store import write_prompts

Declare = Callable[..., Distillation]
WriteRows = Callable[..., Path]
TOPICS = ("law", "sport", "travel")
BY_TOPIC = {"by": "topic"}


@pytest.fixture(autouse=True)
def _rows(write_rows: WriteRows) -> None:
    write_rows([{"topic": topic, "question": f"{topic} {number}?"} for topic in TOPICS for number in range(30)])


def publish(distillation: Distillation) -> PromptBuild:
    build = build_prompts(distillation)
    for partition, prompts in build.partitions.items():
        write_prompts(distillation, partition, prompts)
    return build


def splits(build: PromptBuild) -> dict[str, set[str]]:
    return {name: set(made.frame["split"]) for name, made in build.partitions.items()}


def test_all_rows_of_a_held_out_partition_are_held_out(declare: Declare) -> None:
    build = build_prompts(declare(partition=BY_TOPIC, held_out=["travel"]))

    everywhere = {"train", "validation", "test"}
    assert splits(build) == {"law": everywhere, "sport": everywhere, "travel": {"held_out"}}


def test_only_the_versions_of_partitions_that_move_change_and_nothing_is_rendered_again(declare: Declare) -> None:
    before = publish(declare(partition=BY_TOPIC))
    held_out = publish(declare(partition=BY_TOPIC, held_out=["travel"]))
    undone = publish(declare(partition=BY_TOPIC))

    changed = {name for name in TOPICS if held_out.partitions[name].version != before.partitions[name].version}
    assert changed == {"travel"}
    assert (held_out.rendered_rows, undone.rendered_rows) == (0, 0)
    assert all(undone.partitions[name].frame.equals(before.partitions[name].frame) for name in TOPICS)
    columns = pl.exclude("split")
    assert held_out.partitions["travel"].frame.select(columns).equals(before.partitions["travel"].frame.select(columns))


def test_a_name_that_is_no_partition_is_told_with_the_known_ones(declare: Declare) -> None:
    with pytest.raises(SpecError, match=r"held_out_partitions: no partition 'trvel' \(known: law, sport, travel\)"):
        build_prompts(declare(partition=BY_TOPIC, held_out=["law", "trvel"]))


def test_something_has_to_be_left_to_train_on(declare: Declare) -> None:
    with pytest.raises(SpecError, match="every partition is held out"):
        build_prompts(declare(partition=BY_TOPIC, held_out=list(TOPICS)))


def test_rows_that_cannot_be_placed_are_told_before_a_name_is_doubted(declare: Declare, write_rows: WriteRows) -> None:
    write_rows(['{"question": "no topic"}'], name="bad.jsonl")

    build = build_prompts(declare(partition=BY_TOPIC, held_out=["unknown"]))

    assert set(build.failed) == set(TOPICS)
