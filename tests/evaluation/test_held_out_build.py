"""The stage with held-out partitions: the worker answers them apart, and each prediction is made once."""

import dataclasses
import shutil
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.prompts import PartitionSpec
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts
from tests.evaluation.test_build import Bench, checkpoints, no_worker

__all__ = ["checkpoints"]
AWAY = {f"a{index}": f"Tell me about number {index} elsewhere." for index in range(3)}
MODELS = ["student first", "base of first", "teacher"]
TABLES = ("quality", "quality_kept", "retention", "fidelity", "health", "samples", "training")


@pytest.fixture
def plain(tmp_path: Path, tiny_model: Path, checkpoints: dict[str, Path]) -> Bench:
    """A distillation with a trained student, and nothing held out."""
    bench = Bench(tmp_path, tiny_model, checkpoints)
    bench.train("first")
    return bench


@pytest.fixture
def bench(plain: Bench) -> Bench:
    """The same with a second partition `away`, which is held out."""
    add_away(plain)
    return plain


def add_away(bench: Bench) -> None:
    publish_prompts(bench.distillation, "away", [prompt(name, text, "held_out") for name, text in AWAY.items()])
    publish_outputs(bench.distillation, "away", [output(name, "It is.", token_ids=[50, 51, 2]) for name in AWAY])
    hold_out(bench)
    build_dataset(bench.distillation)
    bench.train("first")


def hold_out(bench: Bench, **evaluation: object) -> None:
    spec = bench.distillation.spec
    changed = EvaluationSpec.model_validate({"held_out_partitions": ["away"], **evaluation})
    prompts = spec.prompts.model_copy(update={"partition": PartitionSpec(by="topic")})
    spec = spec.model_copy(update={"prompts": prompts, "evaluation": changed})
    bench.distillation = dataclasses.replace(bench.distillation, spec=spec)


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, checkpoints: dict[str, Path]
) -> tuple[Bench, EvaluationBuild]:
    """An evaluation with a partition held out; only to be read."""
    bench = Bench(tmp_path_factory.mktemp("evaluated"), tiny_model, checkpoints)
    add_away(bench)
    return bench, bench.evaluate("first")


def test_the_same_models_answer_both_in_jobs_of_their_own(evaluated: tuple[Bench, EvaluationBuild]) -> None:
    bench, build = evaluated
    report = build.report()

    assert bench.asked == [MODELS, MODELS]
    assert len(bench.stored) == 6
    assert report.held_out is not None
    assert report.held_out.rows_per_partition == {"away": 3}
    assert report.counts.rows_per_split["held_out"] == 3
    assert {measure.name for measure in report.held_out.fidelity} >= {"forward_kl", "top1", "chrf"}
    assert read_manifest(build.folder)["counts"] == {"test_rows": 3, "held_out_rows": 3}
    assert build.side_by_side().height == 3  # what Dagster shows is of the test split


def test_held_out_rows_are_nowhere_else(evaluated: tuple[Bench, EvaluationBuild]) -> None:
    bench, build = evaluated

    dataset = bench.distillation.files.asset("dataset") / build.report().identity.versions.dataset
    for split in ("train", "validation", "test"):
        rows = pl.read_parquet(dataset / f"{split}.parquet")
        assert len(rows)
        assert not set(rows["prompt_id"]) & set(AWAY), split
        assert "away" not in rows["partition"], split
    lines = (dataset / "distillation_train.jsonl").read_text(encoding="utf-8")
    assert not [text for text in AWAY.values() if text in lines]
    predictions = pl.read_parquet(build.folder / "predictions.parquet")
    assert set(predictions.filter(split="held_out")["prompt_id"]) == set(AWAY)
    assert not set(predictions.filter(split="test")["prompt_id"]) & set(AWAY)


def test_holding_rows_out_answers_them_alone_and_changes_no_other_number(plain: Bench) -> None:
    before = plain.evaluate("first").report()

    add_away(plain)
    asked: list[pl.DataFrame] = []
    after = plain.evaluate("first", after=lambda job: asked.append(pl.read_parquet(job.rows))).report()

    assert plain.asked == [MODELS, MODELS]
    assert [set(rows["prompt_id"]) for rows in asked] == [set(AWAY)]
    assert (before.held_out, after.held_out is not None) == (None, True)
    assert before.identity.versions.student == after.identity.versions.student
    assert before.identity.versions.dataset != after.identity.versions.dataset
    for name in TABLES:
        assert getattr(after, name) == getattr(before, name), name


def test_once_more_it_asks_nothing_and_forced_it_writes_the_same_bytes(bench: Bench) -> None:
    first = bench.evaluate("first")
    files = {path.name: path.read_bytes() for path in first.folder.iterdir() if path.name != "manifest.json"}

    adopted = build_evaluation(bench.distillation, "first", no_worker)
    shutil.rmtree(first.folder)
    forced = build_evaluation(bench.distillation, "first", no_worker, rebuild=True)

    assert (adopted.evaluated, adopted.version) == (False, first.version)
    assert (forced.evaluated, forced.version) == (True, first.version)
    assert {name: (forced.folder / name).read_bytes() for name in files} == files
    assert files.keys() == {"report.html", "report.json", "predictions.parquet", "measurements.json"}


def test_nothing_is_answered_twice_when_only_what_is_measured_changes(bench: Bench) -> None:
    bench.evaluate("first")

    hold_out(bench, metrics=["chrf"])
    bench.evaluate("first")

    assert len(bench.jobs) == 2


def test_a_run_that_was_cut_short_goes_on_with_the_rest(bench: Bench) -> None:
    def dies(job: object) -> None:
        if len(bench.jobs) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.evaluate("first", after=dies)
    bench.evaluate("first")

    assert len(bench.jobs) == 2


def test_partitions_without_a_usable_row_are_an_error(bench: Bench) -> None:
    publish_outputs(bench.distillation, "away", [output(name, None, status="refused") for name in AWAY])
    build_dataset(bench.distillation)
    bench.checkpoints = {"first": bench.checkpoints["second"]}  # other weights, as other rows would give
    bench.train("first")

    with pytest.raises(EvaluationError, match="no usable row of the held-out partitions away is in the dataset"):
        bench.evaluate("first")
