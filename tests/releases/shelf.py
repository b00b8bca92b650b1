"""Students and evaluations with a chosen verdict, published as the stages publish them, without a model."""

import json
import shutil
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill_dagster.evaluation.build import asset_of as evaluation_asset
from distill_dagster.evaluation.build import evaluation_build_key
from distill_dagster.evaluation.gate import Decision, Status
from distill_dagster.evaluation.model import EvaluationReport, GateVerdict, Versions
from distill_dagster.evaluation.write import REPORT_JSON_FILE, evaluation_version, write_evaluation
from distill_dagster.golden.build import build_golden_set
from distill_dagster.golden.rows import OVERALL
from distill_dagster.lineage.builds import BuildRecord, Builds
from distill_dagster.lineage.manifests import Manifest, read_manifest, spec_hash, write_manifest
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.project import Distillation
from distill_dagster.storage import Current, read_current, write_current, write_json
from distill_dagster.students.build import asset_of as student_asset
from distill_dagster.students.build import student_build_key
from tests.evaluation.across.shelf import small_inputs
from tests.evaluation.conftest import make_training
from tests.graph.hosted import rows, spec

Declare = Callable[..., Distillation]
STUDENT = "small"
GATE = {"metric": "rouge_l", "max_degradation": 0.05}


def declared(declare: Declare, *, questions: int = 20, golden: int = 3, more: str = "", **gate: object) -> Distillation:
    """A gated distillation with a hosted teacher.

    Args:
        questions, golden: rows of the prompts and of the golden set.
        more: further students.
        gate: keys of the gate.
    """
    blocks = (
        "golden_set: {jsonl: golden.jsonl}\n"
        f"students:\n  {STUDENT}: {{base: base, objective: sft}}\n{more}"
        f"evaluation: {json.dumps({'metrics': ['rouge_l', 'chrf'], 'gate': {**GATE, **gate}})}\n"
    )
    verified = [{"question": f"golden {n}", "reference": "yes", "verified": True} for n in range(golden)]
    lines = "".join(json.dumps(row) + "\n" for row in verified)
    distillation = declare(spec(blocks), rows__jsonl=rows(birds=questions), golden__jsonl=lines)
    base = distillation.folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}", encoding="utf-8")
    (base / "model.safetensors").write_text("base", encoding="utf-8")
    build_golden_set(distillation)
    return distillation


def train(distillation: Distillation, weights: str = "weights", student: str = STUDENT) -> str:
    """Publishes a checkpoint and makes it the current one; returns its version."""
    aside = distillation.files.root / "aside" / uuid.uuid4().hex
    aside.mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": weights, "README.md": "A student."}.items():
        (aside / name).write_text(text, encoding="utf-8")
    version = digest_model(aside).version
    key = student_build_key(distillation, student)
    inputs = {"dataset": "da" * 16, "base": "ba" * 16}
    if (dataset := read_current(distillation.files.asset("dataset"))) is not None:
        inputs["dataset"] = dataset.version
    details = {
        "teacher": distillation.spec.teacher.model,
        "authorization": "agreement 12",
        "base_version": None,
        "result": make_training().model_dump(mode="json", exclude={"measurements"}),
    }
    manifest = Manifest(
        distillation.name, f"student/{student}", version, key or "", inputs, spec_hash(distillation.spec), {}, details
    )
    write_manifest(aside, manifest)
    home = distillation.files.asset(student_asset(student))
    if not (home / version).exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.move(aside, home / version)
    if key is not None:
        Builds(distillation.project.home).adopt(BuildRecord(key, "student", version, inputs), rebuild=True)
    write_current(home, Current(version, key))
    return version


def judge(
    distillation: Distillation,
    status: Status | None,
    student: str = STUDENT,
    *,
    current: bool = True,
    **changes: object,
) -> str:
    """Publishes an evaluation of the current student under the declared rule; returns its version.

    Args:
        status: None for an evaluation without a verdict.
        current: whether readers see it; else only its build is known, and a run adopts it.
        changes: fields of the verdict that are otherwise.
    """
    trained = read_current(distillation.files.asset(student_asset(student)))
    assert trained is not None
    dataset = read_manifest(distillation.files.asset(student_asset(student)) / trained.version)["inputs"]["dataset"]
    report, files = _evaluation()
    aside = distillation.files.root / "aside" / uuid.uuid4().hex
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / name).write_bytes(content)
    golden = read_current(distillation.files.asset("golden_set"))
    assert golden is not None
    gate = None if status is None else verdict(distillation, status, golden.version, **changes)
    versions = Versions(dataset=dataset, student=trained.version)
    identity = report.identity.model_copy(update={"versions": versions})
    judged = report.model_copy(update={"identity": identity, "gate": gate})
    write_json(aside / REPORT_JSON_FILE, json.loads(judged.model_dump_json()))
    version = evaluation_version(aside)
    measured = {"student": trained.version, "dataset": dataset, "golden_set": golden.version}
    key = evaluation_build_key(distillation, student)
    write_manifest(
        aside,
        Manifest(
            distillation.name,
            f"evaluation/{student}",
            version,
            key or "",
            measured,
            spec_hash(distillation.spec),
        ),
    )
    home = distillation.files.asset(evaluation_asset(student))
    if not (home / version).exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.move(aside, home / version)
    if key is not None:
        Builds(distillation.project.home).adopt(BuildRecord(key, "evaluation", version, measured), rebuild=True)
    if current:
        write_current(home, Current(version, key))
    return version


@cache
def _evaluation() -> tuple[EvaluationReport, dict[str, bytes]]:
    """An evaluation of no importance, as the stage writes it."""
    with TemporaryDirectory() as folder:
        report = write_evaluation(Path(folder), small_inputs(metrics=["rouge_l"]))
        return report, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def verdict(distillation: Distillation, status: Status, golden: str, **changes: Any) -> GateVerdict:
    """A verdict under the declared rule."""
    gate = distillation.spec.evaluation.gate
    assert gate is not None
    decision = Decision(
        status=status,
        reason="The golden rows say so.",
        difference=-0.01,
        low=-0.04,
        high=0.02,
        method="cluster_t",
        n=40,
        n_clusters=40,
        alpha=gate.alpha / 2,
        rows_to_decide=None,
        base_would_pass=False,
    )
    reached = GateVerdict(
        metric=gate.metric,
        max_degradation=gate.max_degradation,
        min_score=gate.min_score,
        alpha=gate.alpha,
        alpha_spent=gate.alpha / 2,
        look=1,
        candidates=len(gate.candidates or distillation.spec.students),
        golden_set=golden,
        unverified=0,
        status=status,
        statement=f"{status.value.capitalize()} on ROUGE-L. The golden rows say so.",
        decisions={OVERALL: decision},
    )
    return reached.model_copy(update=changes)
