"""The dataset stage: versions that follow content alone, builds that are adopted, errors that name partitions."""

import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_dagster.dataset.build import DATASET_SCHEMA, DatasetBuild, build_dataset, dataset_build_key, dropped_rows
from distill_dagster.errors import DatasetError, StorageError
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import remove_vanished
from distill_dagster.storage import Current, read_current, write_current
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts

Declare = Callable[..., Distillation]
SPLITS = ("train", "validation", "test")
QUESTIONS = [
    "Why is the sky blue?",
    "空はなぜ青いのですか",
    "لماذا السماء زرقاء؟",
    "How do magnets work?",
    "Which fish is fastest?",
    "Where do penguins live 🐧?",
]
PROMPTS = [prompt(f"p{i}", text, SPLITS[i % 3]) for i, text in enumerate(QUESTIONS)]


def publish(distillation: Distillation, layout: dict[str, list[dict[str, Any]]]) -> None:
    remove_vanished(distillation, layout)
    for partition, rows in layout.items():
        publish_prompts(distillation, partition, rows)
        publish_outputs(distillation, partition, [output(row["prompt_id"], f"About {row['text']}") for row in rows])


def test_a_dataset_is_written_with_its_manifest(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"x": PROMPTS[:4], "y": [*PROMPTS[4:], prompt("zz", "")]})
    publish_outputs(distillation, "y", [*(output(row["prompt_id"]) for row in PROMPTS[4:]), output("zz", " ")])

    build = build_dataset(distillation)

    frames = {split: pl.read_parquet(build.folder / f"{split}.parquet") for split in SPLITS}
    manifest = read_manifest(build.folder)
    assert all(dict(frame.schema) == DATASET_SCHEMA for frame in frames.values())
    assert build.split_counts == {split: frame.height for split, frame in frames.items()} == dict.fromkeys(SPLITS, 2)
    assert build.drop_counts == {"empty": 1}
    assert manifest["version"] == build.version
    assert manifest["counts"] == {"train": 2, "validation": 2, "test": 2, "dropped_empty": 1}
    assert sorted(manifest["inputs"]) == ["prompts/x", "prompts/y", "teacher_outputs/x", "teacher_outputs/y"]
    assert sorted(manifest["files"]) == sorted(["distillation_train.jsonl", *(f"{split}.parquet" for split in SPLITS)])
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((build.folder / name).read_bytes()).hexdigest() == sha256
    assert dropped_rows(distillation, build.build_key).select("prompt_id", "reason").rows() == [("zz", "empty")]
    current = read_current(distillation.files.asset("dataset"))
    assert current is not None
    assert (current.version, current.build_key) == (build.version, dataset_build_key(distillation))


def test_training_lines_are_plain_for_single_turns(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})

    lines = (build_dataset(distillation).folder / "distillation_train.jsonl").read_text(encoding="utf-8").splitlines()

    assert json.loads(lines[0]) == {"prompt": "Why is the sky blue?", "completion": "About Why is the sky blue?"}
    assert len(lines) == 2


def test_training_lines_are_conversations_where_one_needs_it(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": [*PROMPTS, prompt("s", "हिन्दी में?", system="Be kind.")]})

    lines = (build_dataset(distillation).folder / "distillation_train.jsonl").read_text(encoding="utf-8").splitlines()

    assert {tuple(message["role"] for message in json.loads(line)["prompt"]) for line in lines} == {
        ("user",),
        ("system", "user"),
    }
    assert json.loads(lines[-1])["completion"] == [{"role": "assistant", "content": "About हिन्दी में?"}]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from("abc"), min_size=len(PROMPTS), max_size=len(PROMPTS)))
def test_resharding_changes_the_build_key_but_not_the_version(declare: Declare, places: list[str]) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    whole = build_dataset(distillation)

    layout = {place: [row for row, at in zip(PROMPTS, places, strict=True) if at == place] for place in set(places)}
    publish(distillation, layout)
    cut = build_dataset(distillation)

    assert cut.version == whole.version
    assert cut.build_key != whole.build_key
    assert not cut.changed


def test_rows_put_in_order_range_by_range_are_those_put_in_order_at_once(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = declare()
    publish(distillation, {"x": PROMPTS[::2], "y": PROMPTS[1::2]})
    whole = build_dataset(distillation)
    names = sorted(path.name for path in whole.folder.iterdir() if path.suffix == ".parquet")
    frames = [pl.read_parquet(whole.folder / name) for name in names]
    lines = (whole.folder / "distillation_train.jsonl").read_bytes()

    monkeypatch.setattr("distill_dagster.dataset.assemble.RANGE_PROMPTS", 2)
    monkeypatch.setattr("distill_dagster.spill.BUFFER_BYTES", 0)
    shutil.rmtree(whole.folder)
    cut = build_dataset(distillation)

    assert cut.version == whole.version
    assert all(pl.read_parquet(cut.folder / name).equals(frame) for name, frame in zip(names, frames, strict=True))
    assert (cut.folder / "distillation_train.jsonl").read_bytes() == lines


def test_an_edit_that_curation_drops_leaves_the_version(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    before = build_dataset(distillation)
    publish_prompts(distillation, "all", [*PROMPTS, prompt("refused", "How to pick a lock?")])
    answers = [output(row["prompt_id"], f"About {row['text']}") for row in PROMPTS]
    publish_outputs(distillation, "all", [*answers, output("refused", None, status="refused")])

    after = build_dataset(distillation)

    assert after.version == before.version
    assert after.drop_counts == {"refused": 1}
    assert read_current(distillation.files.asset("dataset")).build_key == after.build_key  # type: ignore[union-attr]


def test_the_version_follows_answers_and_undoing_an_edit_brings_it_back(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    first = build_dataset(distillation)
    publish_outputs(distillation, "all", [output(row["prompt_id"], "Other.") for row in PROMPTS])
    edited = build_dataset(distillation)
    publish(distillation, {"all": PROMPTS})
    stamp = (first.folder / "train.parquet").stat().st_mtime_ns

    undone = build_dataset(distillation)

    assert edited.version != first.version
    assert (undone.version, undone.build_key, undone.changed) == (first.version, first.build_key, True)
    assert (undone.split_counts, undone.drop_counts) == (first.split_counts, first.drop_counts)
    assert (first.folder / "train.parquet").stat().st_mtime_ns == stamp


def test_a_lost_folder_is_built_again(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    build = build_dataset(distillation)
    build.folder.rename(build.folder.with_name("elsewhere"))

    assert build_dataset(distillation).folder.is_dir()
    assert build_dataset(distillation, rebuild=True).version == build.version


def test_settings_that_matter_change_the_build_key(declare: Declare) -> None:
    publish(declare(), {"all": PROMPTS})
    key = dataset_build_key(declare())

    assert dataset_build_key(declare(thinking="include")) != key
    assert dataset_build_key(declare(drop=["duplicate"])) != key
    assert dataset_build_key(declare(near_duplicate_threshold=0.9)) != key
    assert dataset_build_key(declare(drop=declare().spec.curation.drop[::-1])) == key
    assert dataset_build_key(declare(allow_missing=True)) == key


def test_label_shares_change_the_version_only_where_there_are_any(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    plain = build_dataset(distillation)
    folder = distillation.files.asset("teacher_outputs", "all")
    outputs = pl.read_parquet(next(folder.glob("*.parquet")))

    def assess(shares: str | None, name: str) -> DatasetBuild:
        found = {"problem": None, "label": None, "label_shares": shares}
        columns = [pl.lit(value, pl.String).alias(column) for column, value in found.items()]
        outputs.with_columns(*columns, selected=pl.lit(True)).write_parquet(folder / f"{name}.parquet")
        write_current(folder, Current(name))
        return build_dataset(distillation)

    assert assess(None, "unlabelled").version == plain.version
    assert assess('{"a":1.0}', "labelled").version != plain.version


def test_missing_and_stale_outputs_are_named(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"x": PROMPTS[:4], "y": PROMPTS[4:]})
    publish_prompts(distillation, "z", [prompt("late")])

    with pytest.raises(DatasetError, match="no current teacher outputs for 1 of 3 partitions: z;"):
        build_dataset(distillation)
    with pytest.raises(DatasetError, match="for 2 of 3 partitions: y, z;"):
        build_dataset(distillation, is_current=lambda partition: partition == "x")
    assert dataset_build_key(distillation) is None


def test_missing_partitions_may_be_allowed_and_are_recorded(declare: Declare) -> None:
    distillation = declare(allow_missing=True)
    publish(distillation, {"x": PROMPTS})
    publish_prompts(distillation, "z", [prompt("late")])

    build = build_dataset(distillation)

    assert build.missing == ("z",)
    assert read_manifest(build.folder)["details"]["missing_partitions"] == ["z"]
    with pytest.raises(DatasetError, match="for 2 of 2 partitions"):
        build_dataset(distillation, is_current=lambda _: False)


def test_nothing_to_build_from_or_to_train_on(declare: Declare) -> None:
    distillation = declare()
    with pytest.raises(DatasetError, match="no partition has prompts yet"):
        build_dataset(distillation)

    publish(distillation, {"all": PROMPTS})
    publish_outputs(distillation, "all", [output(row["prompt_id"], status="refused") for row in PROMPTS[:5]])
    with pytest.raises(DatasetError, match=r"no row is left to train on \(error: 1 dropped, refused: 5 dropped\)"):
        build_dataset(distillation)
    assert read_current(distillation.files.asset("dataset")) is None


def test_one_prompt_in_two_partitions_is_an_error(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"x": PROMPTS, "y": PROMPTS[:1]})

    with pytest.raises(DatasetError, match="prompt 'p0' is in partitions 'x' and 'y'"):
        build_dataset(distillation)


def test_a_lost_input_is_an_error(declare: Declare) -> None:
    distillation = declare()
    publish(distillation, {"all": PROMPTS})
    for path in distillation.files.asset("teacher_outputs", "all").glob("*.parquet"):
        path.unlink()

    with pytest.raises(StorageError, match="materialise `teacher_outputs` again"):
        build_dataset(distillation)
    with pytest.raises(StorageError, match="materialise `dataset` again"):
        dropped_rows(distillation, "0" * 32)
