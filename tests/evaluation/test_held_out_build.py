"""The stage with held-out partitions: the worker answers them apart, and each prediction is made once."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import EvaluationError
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.prompts import PartitionSpec
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts
from tests.evaluation.test_build import Bench, checkpoints

__all__ = ["checkpoints"]
AWAY = {f"a{index}": f"Tell me about number {index} elsewhere." for index in range(3)}


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, checkpoints: dict[str, Path]) -> Bench:
    """A distillation of two partitions, of which `away` is held out, with a trained student."""
    bench = Bench(tmp_path, tiny_model, checkpoints)
    publish_prompts(bench.distillation, "away", [prompt(name, text, "held_out") for name, text in AWAY.items()])
    publish_outputs(bench.distillation, "away", [output(name, "It is.", token_ids=[50, 51, 2]) for name in AWAY])
    hold_out(bench)
    build_dataset(bench.distillation)
    bench.train("first")
    return bench


def hold_out(bench: Bench, **evaluation: object) -> None:
    spec = bench.distillation.spec
    changed = EvaluationSpec.model_validate({"held_out_partitions": ["away"], **evaluation})
    prompts = spec.prompts.model_copy(update={"partition": PartitionSpec(by="topic")})
    spec = spec.model_copy(update={"prompts": prompts, "evaluation": changed})
    bench.distillation = dataclasses.replace(bench.distillation, spec=spec)


def test_the_same_models_answer_both_in_jobs_of_their_own(bench: Bench) -> None:
    build = bench.evaluate("first")
    report = build.report()

    models = ["student first", "base of first", "teacher"]
    assert bench.asked == [models, models]
    assert len(bench.stored) == 6
    assert report.held_out is not None
    assert report.held_out.rows_per_partition == {"away": 3}
    assert report.counts.rows_per_split["held_out"] == 3
    assert {measure.name for measure in report.held_out.fidelity} >= {"forward_kl", "top1", "chrf"}
    predictions = pl.read_parquet(build.folder / "predictions.parquet")
    assert set(predictions.filter(split="held_out")["prompt_id"]) == set(AWAY)
    assert not set(predictions.filter(split="test")["prompt_id"]) & set(AWAY)
    assert read_manifest(build.folder)["counts"] == {"test_rows": 3, "held_out_rows": 3}
    assert build.side_by_side().height == 3  # what Dagster shows is of the test split


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
