"""Rows of held-out partitions are a split of their own, and nothing like them stays in the others."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset, dataset_build_key, dataset_current, dropped_rows
from distill_dagster.errors import DatasetError, SpecError
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts

Declare = Callable[..., Distillation]
LONG = "please explain in a few words how a bicycle stays upright while somebody rides it along the road"
HOME = [prompt("h1", "How do magnets work?"), prompt("h2", "Why is the sky blue?", "test")]
AWAY = [prompt("a1", "Where do penguins live?", "held_out"), prompt("a2", "Which fish is fastest?", "held_out")]


def publish(distillation: Distillation, **layout: list[dict[str, Any]]) -> None:
    for partition, rows in layout.items():
        publish_prompts(distillation, partition, rows)
        publish_outputs(distillation, partition, [output(row["prompt_id"], f"About {row['text']}") for row in rows])


def files(distillation: Distillation) -> set[str]:
    return {path.name for path in build_dataset(distillation).folder.iterdir()}


def test_held_out_rows_are_in_a_file_of_their_own_and_in_no_other(declare: Declare) -> None:
    distillation = declare(held_out=["away"])
    publish(distillation, home=HOME, away=AWAY)

    build = build_dataset(distillation)

    ids = {path.stem: pl.read_parquet(path)["prompt_id"].to_list() for path in sorted(build.folder.glob("*.parquet"))}
    assert ids == {"held_out": ["a1", "a2"], "test": ["h2"], "train": ["h1"], "validation": []}
    assert build.split_counts == {"train": 1, "validation": 0, "test": 1, "held_out": 2}
    manifest = read_manifest(build.folder)
    assert manifest["counts"]["held_out"] == 2
    assert manifest["details"]["curation"]["held_out_partitions"] == ["away"]
    assert "held_out.parquet" in manifest["files"]


def test_a_dataset_without_them_has_the_files_and_the_key_that_it_always_had(declare: Declare) -> None:
    publish(declare(), home=HOME)
    plain = declare()

    assert files(plain) == {
        "train.parquet",
        "validation.parquet",
        "test.parquet",
        "distillation_train.jsonl",
        "manifest.json",
    }
    assert "held_out_partitions" not in read_manifest(build_dataset(plain).folder)["details"]["curation"]
    assert dataset_build_key(plain) != dataset_build_key(declare(held_out=["home"]))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_resembles_a_held_out_row_leaves_the_other_splits(declare: Declare, split: str) -> None:
    distillation = declare(held_out=["away"])
    publish(distillation, home=[*HOME, prompt("b", LONG, split)], away=[prompt("z", f"{LONG} ok", "held_out")])

    build = build_dataset(distillation)

    dropped = dropped_rows(distillation, build.build_key)
    assert dropped.select("prompt_id", "split", "reason", "detail").rows() == [("b", split, "test_leakage", "z")]


@pytest.mark.parametrize("drop", [["duplicate", "near_duplicate", "test_leakage"], []])
def test_a_group_with_held_out_rows_has_none_elsewhere(declare: Declare, drop: list[str]) -> None:
    customer = {"group_id": "one customer"}
    home = [*HOME, prompt("c1", "My invoice is wrong.") | customer, prompt("c2", "Where is it?", "test") | customer]
    away = [*AWAY, prompt("c9", "The app is slow.", "held_out") | customer]
    distillation = declare(held_out=["away"], drop=drop)
    publish(distillation, home=home, away=away)

    build = build_dataset(distillation)

    assert build.drop_counts == {"held_out_group": 2}
    assert dropped_rows(distillation, build.build_key)["detail"].to_list() == ["c9", "c9"]
    assert pl.read_parquet(build.folder / "held_out.parquet")["prompt_id"].to_list() == ["a1", "a2", "c9"]


def test_an_unusable_held_out_answer_drops_nobody(declare: Declare) -> None:
    distillation = declare(held_out=["away"])
    publish(distillation, home=[*HOME, prompt("b", LONG)], away=[*AWAY, prompt("z", LONG, "held_out")])
    answers = [output("a1"), output("a2"), output("z", None, status="refused")]
    publish_outputs(distillation, "away", answers)

    assert build_dataset(distillation).drop_counts == {"refused": 1}


def test_prompts_from_before_the_declaration_changed_never_reach_training(declare: Declare) -> None:
    before = [row | {"split": "train"} for row in AWAY]
    publish(declare(), home=HOME, away=before)
    old = build_dataset(declare())
    distillation = declare(held_out=["away"])

    assert not dataset_current(distillation)
    with pytest.raises(DatasetError, match=r"prompts of away are from before evaluation\.held_out_partitions"):
        build_dataset(distillation)

    publish(distillation, away=AWAY)
    assert build_dataset(distillation).version != old.version
    with pytest.raises(DatasetError, match="prompts of away are from before"):
        build_dataset(declare())


def test_a_partition_that_nothing_is_known_of_cannot_be_held_out(declare: Declare) -> None:
    publish(declare(), home=HOME)

    with pytest.raises(SpecError, match=r"no partition 'away' \(known: home\)"):
        build_dataset(declare(held_out=["away"]))
    with pytest.raises(SpecError, match="every partition is held out"):
        build_dataset(declare(held_out=["home"]))
