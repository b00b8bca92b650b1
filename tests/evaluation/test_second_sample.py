"""The teacher's second answers: one more a test prompt over real HTTP, out of the store ever after."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import BudgetError
from distill_dagster.evaluation.build import EvaluationBuild, evaluation_build_key
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from distill_dagster.teachers.money.estimate import estimate
from distill_dagster.teachers.store.spending import spending_of
from tests.evaluation.test_build import Bench, checkpoints
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of, refusal
from tests.teachers.hosted import answer, rows

__all__ = ["checkpoints"]
Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
  split: {{validation: 0, test: 0.4}}
curation: {{drop: [empty]}}
teacher: {teacher}
students:
  first: {{base: {{model: {model}}}, max_length: 128}}
evaluation: {evaluation}
"""
TEACHER = {"provider": "anthropic", "model": "claude-haiku-4-5", "max_tokens": 8}


class HostedBench(Bench):
    """A hosted teacher's distillation with a ready-made student; answers are numbered by how often they were asked."""

    def __init__(self, declare: Declare, claude: AnthropicServer, model: Path, checkpoints: dict[str, Path]) -> None:
        self._declare, self.claude, self._model = declare, claude, model
        self.checkpoints = checkpoints
        self.jobs = []
        claude.script = lambda body, seen: Reply(text=f"Said {seen + 1} times: {prompt_of(body)}")

    def declared(self, teacher: dict[str, object] | None = None, **evaluation: object) -> Distillation:
        spec = SPEC.format(
            teacher=json.dumps(TEACHER | (teacher or {})), model=self._model, evaluation=json.dumps(evaluation)
        )
        return self._declare(spec, rows__jsonl=rows(20))

    def run(self, teacher: dict[str, object] | None = None, **evaluation: object) -> EvaluationBuild:
        """All stages, as a run of the distillation makes them."""
        self.distillation = self.declared(teacher, **evaluation)
        answer(self.distillation)
        build_dataset(self.distillation)
        self.train("first")
        return self.evaluate("first")

    @property
    def asked_twice(self) -> list[str]:
        return sorted({prompt for prompt in self.claude.accepted if self.claude.accepted.count(prompt) > 1})


@pytest.fixture
def bench(declare: Declare, claude: AnthropicServer, tiny_model: Path, checkpoints: dict[str, Path]) -> HostedBench:
    return HostedBench(declare, claude, tiny_model, checkpoints)


def test_by_default_nobody_is_asked_twice(bench: HostedBench) -> None:
    report = bench.run().report()

    assert len(bench.claude.accepted) == 20
    assert report.second_sample is None


def test_every_test_prompt_is_asked_once_more_and_a_second_run_pays_nothing(bench: HostedBench) -> None:
    build = bench.run(teacher_resample=True)
    report = build.report()

    test = pl.read_parquet(build.folder / "predictions.parquet").filter(model="teacher")
    assert bench.asked_twice == sorted(test["text"])
    assert len(bench.claude.accepted) == 20 + report.counts.test_rows
    assert report.second_sample is not None
    assert report.second_sample.prompts == report.counts.test_rows > 2

    again = bench.run(teacher_resample=True)
    bench.run(teacher_resample=True, metrics=["chrf"])
    bench.run(teacher_resample=3)

    assert (again.version, again.evaluated) == (build.version, False)
    assert len(bench.claude.accepted) == 20 + report.counts.test_rows


def test_the_second_answers_stand_beside_the_first(bench: HostedBench) -> None:
    build = bench.run(teacher_resample=True)

    predictions = pl.read_parquet(build.folder / "predictions.parquet")
    first, second = (predictions.filter(model=name).sort("text") for name in ("teacher", "teacher_again"))
    assert second["prediction"].to_list() == [f"Said 2 times: {text}" for text in first["text"]]
    assert 0 < second["chrf_vs_teacher"].min() < 1
    assert read_manifest(build.folder)["details"]["second_sample"]["sample"] == 1


def test_a_number_asks_so_many_and_a_larger_one_only_adds(bench: HostedBench) -> None:
    few = bench.run(teacher_resample=2)
    asked = bench.asked_twice
    more = bench.run(teacher_resample=4)

    assert len(asked) == 2
    assert set(asked) < set(bench.asked_twice)
    assert len(bench.claude.accepted) == 24
    sizes = [build.report().second_sample for build in (few, more)]
    assert [size.prompts for size in sizes if size] == [2, 4]


def test_it_is_the_sample_behind_the_declared_ones(bench: HostedBench) -> None:
    build = bench.run(teacher={"samples": 2}, teacher_resample=1)

    predictions = pl.read_parquet(build.folder / "predictions.parquet").filter(model="teacher_again")
    assert predictions["sample"].to_list() == [0, 1]  # one answer, set against both samples
    assert predictions["prediction"].n_unique() == 1
    assert predictions["prediction"][0].startswith("Said 3 times")
    assert len(bench.claude.accepted) == 20 * 2 + 1

    bench.run(teacher={"samples": 3})  # finds that answer in the store

    assert len(bench.claude.accepted) == 20 * 3


def test_batches_are_not_waited_for(bench: HostedBench) -> None:
    report = bench.run(teacher={"transport": "batches"}, teacher_resample=True).report()

    assert len(bench.claude.batches) == 1  # of the first answers
    assert report.second_sample is not None


def test_a_refused_second_answer_is_counted_and_not_asked_again(bench: HostedBench) -> None:
    plain = bench.claude.script
    bench.claude.script = lambda body, seen: refusal() if seen else plain(body, seen)

    report = bench.run(teacher_resample=True).report()
    asked = len(bench.claude.accepted)
    bench.run(teacher_resample=True, metrics=["rouge_l"])

    assert report.second_sample is not None
    assert report.second_sample.unanswered == report.second_sample.prompts
    measure = report.measure("fidelity", "chrf")
    assert measure is not None
    assert measure.systems["teacher_again"].value == 0
    assert len(bench.claude.accepted) == asked


def test_labels_are_compared_as_they_are_declared(bench: HostedBench) -> None:
    bench.claude.script = lambda body, seen: Reply(text="Yes." if seen else "**yes**")

    report = bench.run(teacher={"labels": ["yes", "no"]}, teacher_resample=True, metrics=["exact_match"]).report()

    measure = report.measure("fidelity", "exact_match")
    assert measure is not None
    assert measure.systems["teacher_again"].value == 1


def test_the_budget_stops_it_and_names_the_key(bench: HostedBench) -> None:
    bench.run()
    spent = spending_of(bench.distillation).spent_microusd / 1_000_000

    with pytest.raises(BudgetError, match=r"evaluation\.teacher_resample: .*teacher\.budget_usd"):
        bench.run(teacher={"budget_usd": round(spent + 0.000002, 6)}, teacher_resample=True)
    assert len(bench.claude.accepted) == 20

    bench.run(teacher={"budget_usd": 1}, teacher_resample=True)
    assert len(bench.jobs) == 1  # what the models said before the money was asked for is kept


def test_the_estimate_says_what_it_leaves_out(bench: HostedBench) -> None:
    notes = estimate(bench.declared(teacher_resample=3), how="offline").notes

    assert any(note.startswith("the second answers to 3 test prompts") for note in notes)
    assert not estimate(bench.declared(), how="offline").notes


def test_whether_and_how_often_it_is_asked_decides_the_evaluation(bench: HostedBench) -> None:
    bench.run()
    declared = [bench.declared(), bench.declared(teacher_resample=2), bench.declared(teacher_resample=True)]

    keys = [evaluation_build_key(distillation, "first") for distillation in declared]

    assert None not in keys
    assert len(set(keys)) == 3
