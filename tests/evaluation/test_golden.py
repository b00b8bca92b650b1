"""The stage with a gate: golden rows are answered once, looked at once, and decide."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.errors import EvaluationError, WorkerError
from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation, evaluation_current
from distill_dagster.evaluation.model import GateVerdict
from distill_dagster.golden.build import build_golden_set
from distill_dagster.lifeline import Termination
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.worker import read_job, run
from tests.evaluation.test_build import STUDENTS, Bench, no_worker
from tests.tiny import make_tiny_model

SAID = "Open the settings and press reset."  # what the tiny teacher says to whatever it was not taught
THINGS = ["apples", "rivers", "trains", "clouds", "bread", "music", "chess", "snow", "paper", "tea", "glass", "wool"]
THINGS += ["maps", "bells", "ships", "birds", "honey", "sand", "lamps", "ropes", "wheat", "coal", "ink", "stairs"]
GATE = {"metric": "exact_match", "max_degradation": 0.35}


class GatedBench(Bench):
    """A student with its teacher's weights, one that learnt nothing, an untrained base; a golden row for each thing."""

    def __init__(self, root: Path, teacher: Path, poor: Path, untrained: Path) -> None:
        self.untrained = untrained
        super().__init__(root, teacher, {"first": teacher, "second": poor})

    def declare(self, **evaluation: object) -> None:
        self.declare_students(list(STUDENTS), **evaluation)

    def declare_students(self, students: list[str], **evaluation: object) -> None:
        super().declare()
        spec = self.distillation.spec.model_dump(mode="json", exclude_unset=True)
        teacher = {**spec["teacher"], "max_tokens": 16}
        base = {"base": {"model": str(self.untrained)}, "max_length": 128}
        declared = {
            "teacher": teacher,
            "students": dict.fromkeys(students, base),
            "golden_set": {"jsonl": "golden.jsonl", "slice": "kind"},
            "evaluation": {"gate": GATE, "metrics": ["exact_match", "chrf"], **evaluation},
        }
        before = self.distillation
        changed = DistillationSpec.model_validate(spec | declared)
        self.distillation = Distillation(before.project, before.name, before.folder, changed)
        if not (self.distillation.folder / "golden.jsonl").exists():
            self.write_golden()

    def write_golden(self, things: list[str] = THINGS) -> None:
        rows: list[dict[str, Any]] = [
            {"q": f"May I ask about {thing}?", "reference": SAID, "verified": True, "kind": "goods"} for thing in things
        ]
        rows.append({"q": "And what of the moon?", "reference": "It is far.", "verified": False, "kind": "sky"})
        self.distillation.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.distillation.folder / "golden.jsonl").write_text(lines, encoding="utf-8")
        build_golden_set(self.distillation)

    def evaluate(self, name: str, after: Callable[[Any], None] | None = None) -> EvaluationBuild:
        def launch(job_file: Path) -> None:
            job: Any = read_job(job_file)
            self.jobs.append(job)
            if run(job, Termination()):
                raise WorkerError("the worker failed")

        return build_evaluation(self.distillation, name, launch)

    def verdict(self, name: str) -> GateVerdict:
        gate = self.evaluate(name).report().gate
        assert gate is not None
        return gate

    @property
    def looks(self) -> list[dict[str, Any]]:
        files = self.distillation.files.asset("golden_set").glob("looks/*.json")
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return make_tiny_model(root / "poor", layers=2, seed=3, steps=0), make_tiny_model(root / "untrained", steps=0)


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, models: tuple[Path, Path]) -> GatedBench:
    bench = GatedBench(tmp_path, tiny_model, *models)
    bench.train("first")
    return bench


def test_the_verdict_of_a_good_student_and_of_a_poor_one(bench: GatedBench) -> None:
    bench.train("second")
    build = bench.evaluate("first")
    good = build.report().gate
    poor = bench.verdict("second")

    assert good is not None
    assert (good.status, poor.status) == ("pass", "fail")
    assert good.scores["all rows"] == {"base": 0.0, "student": 1.0, "teacher": 1.0}
    assert (good.look, poor.look, good.candidates, good.alpha_spent) == (1, 1, 2, 0.0125)
    assert (good.decisions["all rows"].n, good.unverified) == (24, 1)
    page = build.report_path.read_text(encoding="utf-8")
    assert '<section class="gate pass"' in page
    assert build.markdown().startswith("**Release gate: pass**\n\n- Passed on Exact match.")
    manifest = read_manifest(build.folder)
    assert manifest["inputs"]["golden_set"] == good.golden_set == build.report().identity.versions.golden_set
    assert {"golden_teacher", "dataset", "student", "base", "teacher"} <= set(manifest["inputs"])
    assert manifest["counts"] == {"test_rows": 3, "golden_rows": 24}


def test_golden_rows_stay_apart_from_the_test_split(bench: GatedBench) -> None:
    build = bench.evaluate("first")

    rows = pl.read_parquet(build.folder / "predictions.parquet")
    golden, test = rows.filter(split="golden"), rows.filter(split="test")
    assert golden["prompt_id"].n_unique() == 24
    assert set(golden["slice"]) == {"goods"}
    assert set(golden.filter(model="teacher")["prediction"]) == {SAID}
    assert not set(golden["prompt_id"]) & set(test["prompt_id"])
    quality = build.report().measure("fidelity", "chrf")
    assert quality is not None
    assert quality.systems["student"].n == build.report().counts.test_rows == 3
    assert build.side_by_side().height == 3


def test_made_again_it_asks_nobody_and_says_the_same(bench: GatedBench) -> None:
    first = bench.evaluate("first")
    stored = (first.folder / "report.json").read_bytes()

    again = build_evaluation(bench.distillation, "first", no_worker, rebuild=True)

    assert (again.evaluated, again.version) == (True, first.version)
    assert (again.folder / "report.json").read_bytes() == stored
    assert [look["number"] for look in bench.looks] == [1]


def test_another_metric_beside_it_is_no_look_and_another_margin_is(bench: GatedBench) -> None:
    bench.verdict("first")
    bench.declare(metrics=["exact_match"])
    beside = bench.verdict("first")
    bench.declare(gate=GATE | {"max_degradation": 0.2})
    stricter = bench.verdict("first")

    assert (beside.look, beside.status) == (1, "pass")
    assert (stricter.look, stricter.alpha_spent, stricter.status) == (2, 0.00625, "inconclusive")
    assert sorted(look["number"] for look in bench.looks) == [1, 2]
    assert len(bench.jobs) == 3  # of the test split, the teacher on golden rows, student and base on golden rows


def test_more_rows_are_another_look_at_which_only_they_are_answered(bench: GatedBench) -> None:
    first = bench.verdict("first")
    bench.write_golden([*THINGS, "iron", "salt"])
    build_dataset(bench.distillation)
    bench.train("first")
    asked = len(bench.jobs)
    more = bench.verdict("first")

    assert (more.look, more.decisions["all rows"].n) == (2, 26)
    assert more.golden_set != first.golden_set
    teacher = bench.jobs[asked]
    assert teacher.kind == "generate"


def test_a_student_that_is_gone_still_shares_alpha(bench: GatedBench) -> None:
    bench.train("second")
    bench.verdict("second")
    bench.declare_students(["first"])

    assert bench.verdict("first").candidates == 2


def test_who_is_no_candidate_is_not_looked_at(bench: GatedBench) -> None:
    bench.declare(gate=GATE | {"candidates": ["second"]})

    gate = bench.verdict("first")

    assert (gate.status, gate.look, gate.candidates) == (None, None, 1)
    assert "first is not a candidate for release" in gate.statement
    assert bench.looks == []
    assert len(bench.jobs) == 1


def test_the_golden_set_has_to_be_that_of_its_source(bench: GatedBench) -> None:
    bench.evaluate("first")
    assert evaluation_current(bench.distillation, "first")
    source = bench.distillation.folder / "golden.jsonl"
    source.write_text(source.read_text(encoding="utf-8").replace("apples", "pears"), encoding="utf-8")

    with pytest.raises(EvaluationError, match=r"tiny: the golden set is not what its source has now.*`golden_set`"):
        bench.evaluate("first")
    build_golden_set(bench.distillation)
    assert not evaluation_current(bench.distillation, "first")
