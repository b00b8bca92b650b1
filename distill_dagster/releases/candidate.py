"""A student that may be released: its current version with the verdict that was reached on exactly this version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distill_dagster.errors import EvaluationError, ReleaseWithheldError, StorageError
from distill_dagster.evaluation.build import asset_of as evaluation_asset
from distill_dagster.evaluation.gate import Status
from distill_dagster.evaluation.model import GateVerdict, Versions
from distill_dagster.evaluation.write import REPORT_JSON_FILE
from distill_dagster.golden.build import ASSET as GOLDEN_SET
from distill_dagster.golden.build import golden_version
from distill_dagster.golden.rows import OVERALL
from distill_dagster.lineage.manifests import altered_files, read_manifest
from distill_dagster.project import Distillation
from distill_dagster.releases.model import Reason
from distill_dagster.spec.evaluation import GateSpec
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of as student_asset


@dataclass(frozen=True)
class Candidate:
    """A student's current version and what the gate said of it.

    Attributes:
        evaluated: versions of what the evaluation measured.
        verdict, status: what the gate said, in full and in a word.
        folder: of the checkpoint.
        report_folder: of the evaluation.
    """

    student: str
    version: str
    folder: Path
    evaluation_version: str
    report_folder: Path
    evaluated: Versions
    verdict: GateVerdict
    status: Status

    @property
    def passed(self) -> bool:
        """Whether the student may be released; inconclusive is not a pass."""
        return self.status is Status.PASS


class _Identity(BaseModel):
    model_config = ConfigDict(extra="ignore")
    versions: Versions


class _Judged(BaseModel):
    """What is read of report.json."""

    model_config = ConfigDict(extra="ignore")
    identity: _Identity
    gate: GateVerdict


def gated_students(distillation: Distillation) -> list[str]:
    """Students that have a release, in the order in which they are declared; none without a gate."""
    gate = distillation.spec.evaluation.gate
    if gate is None:
        return []
    return [name for name in distillation.spec.students if gate.candidates is None or name in gate.candidates]


def read_candidate(distillation: Distillation, student: str) -> Candidate:
    """The current version of a student, with its verdict.

    Raises:
        EvaluationError: nothing guards a release of this student.
        ReleaseWithheldError: there is no verdict on this version, on the current golden rows, under the declared rule.
        StorageError: the evaluation is damaged.
    """
    gate = _declared_gate(distillation, student)
    trained = read_current(distillation.files.asset(student_asset(student)))
    if trained is None:
        raise _withheld(distillation, student, Reason.NO_STUDENT, "it is not trained yet")
    current = read_current(distillation.files.asset(evaluation_asset(student)))
    if current is None:
        raise _withheld(distillation, student, Reason.NO_EVALUATION, "it is not evaluated yet")
    report_folder = distillation.files.asset(evaluation_asset(student)) / current.version
    measured = read_manifest(report_folder)["inputs"]
    judged = _judged(distillation, student, report_folder)
    if (stale := _stale(distillation, judged, measured, trained.version)) is not None:
        raise _withheld(distillation, student, Reason.STALE_EVALUATION, stale)
    if (other := _other_rule(distillation, gate, judged.gate)) is not None:
        raise _withheld(distillation, student, Reason.OTHER_RULE, other)
    assert judged.gate.status is not None  # `_judged` has seen to it
    return Candidate(
        student=student,
        version=trained.version,
        folder=distillation.files.asset(student_asset(student)) / trained.version,
        evaluation_version=current.version,
        report_folder=report_folder,
        evaluated=judged.identity.versions,
        verdict=judged.gate,
        status=judged.gate.status,
    )


def _declared_gate(distillation: Distillation, student: str) -> GateSpec:
    gate = distillation.spec.evaluation.gate
    if gate is None:
        raise EvaluationError(
            f"{distillation.name}: nothing guards a release; declare e.g. "
            "`evaluation.gate: {metric: rouge_l, max_degradation: 0.05}`"
        )
    known = gated_students(distillation)
    if student not in known:
        raise EvaluationError(
            f"{distillation.name}: {student!r} is no candidate for release (known: {', '.join(known) or 'none'})"
        )
    return gate


def _judged(distillation: Distillation, student: str, folder: Path) -> _Judged:
    if altered_files(folder, [REPORT_JSON_FILE]):
        raise StorageError(
            f"{folder / REPORT_JSON_FILE}: not as it was published, so its verdict does not count; remove the folder, "
            f"and `distill run {distillation.name}` makes it again"
        )
    try:
        judged = _Judged.model_validate_json((folder / REPORT_JSON_FILE).read_text(encoding="utf-8"))
    except ValidationError:
        judged = None
    if judged is None or judged.gate.status is None:
        raise _withheld(distillation, student, Reason.NO_VERDICT, "its evaluation has no verdict of the gate")
    return judged


def _stale(distillation: Distillation, judged: _Judged, measured: dict[str, Any], version: str) -> str | None:
    """What the evaluation measured that is no longer current, or None."""
    evaluated = {measured["student"], judged.identity.versions.student}
    if evaluated != {version}:
        other = next(iter(evaluated - {version}))
        return f"version {version[:12]} was never put to the gate: its evaluation is of version {other[:12]}"
    if {measured.get(GOLDEN_SET), judged.gate.golden_set} != {golden_version(distillation)}:
        return "its verdict is of other golden rows than the current ones"
    return None


def _other_rule(distillation: Distillation, gate: GateSpec, verdict: GateVerdict) -> str | None:
    """Which part of the rule is declared otherwise than when the verdict was reached, or None."""
    compared: dict[str, tuple[object, object]] = {
        "metric": (verdict.metric, gate.metric),
        "max_degradation": (verdict.max_degradation, gate.max_degradation),
        "min_score": (verdict.min_score, gate.min_score),
        "slices": (set(verdict.decisions) != {OVERALL}, gate.slices),
        "alpha": (verdict.alpha, gate.alpha),
    }
    for name, (then, now) in compared.items():
        if then != now:
            return f"its verdict was reached under another rule ({name} {then}; declared now: {now})"
    candidates = len(gated_students(distillation))
    if verdict.candidates < candidates:  # more than are declared now have had their share of alpha all the same
        return f"alpha was split among {verdict.candidates} candidates, and {candidates} are declared now"
    return None


def _withheld(distillation: Distillation, student: str, reason: Reason, why: str) -> ReleaseWithheldError:
    return ReleaseWithheldError(
        f"the release of {distillation.name}/{student} is withheld: {why}; `distill run {distillation.name}`", reason
    )
