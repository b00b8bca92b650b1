"""Whether a student may be released now: by a pass, or by an override of another verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill_dagster.errors import ReleaseWithheldError
from distill_dagster.evaluation.gate import Status
from distill_dagster.evaluation.write import REPORT_HTML_FILE
from distill_dagster.project import Distillation
from distill_dagster.releases.candidate import Candidate, gated_students, read_candidate
from distill_dagster.releases.model import Override, Reason
from distill_dagster.releases.overrides import find_override

_ADVICE = {
    Status.FAIL: "Read the report {report} and train a better student",
    Status.INCONCLUSIVE: "Add golden rows, or read the report {report}",
}


@dataclass(frozen=True)
class Admission:
    """The right to release a student; `override` is None where the verdict is a pass."""

    candidate: Candidate
    override: Override | None


def admit(distillation: Distillation, student: str) -> Admission:
    """Reads the verdict on the current version of a student.

    Raises:
        EvaluationError: nothing guards a release of this student.
        ReleaseWithheldError: there is no verdict on this version, or one that is no pass and not overridden.
        StorageError: evaluation or override is damaged.
    """
    candidate = read_candidate(distillation, student)
    if candidate.passed:
        return Admission(candidate, None)
    override = find_override(distillation, candidate)
    if override is None:
        raise ReleaseWithheldError(refusal(distillation, candidate), Reason(candidate.status.value))
    return Admission(candidate, override)


def withheld(distillation: Distillation, students: Sequence[str]) -> dict[str, ReleaseWithheldError]:
    """Why, by student, for those of `students` whose current version may not be released.

    Raises:
        StorageError: an evaluation or override is damaged.
    """
    found = {}
    for student in gated_students(distillation):
        if student in students:
            try:
                admit(distillation, student)
            except ReleaseWithheldError as error:
                found[student] = error
    return found


def refusal(distillation: Distillation, candidate: Candidate) -> str:
    """Why the verdict withholds a release, and what can be done."""
    name, student = distillation.name, candidate.student
    advice = _ADVICE[candidate.status].format(report=candidate.report_folder / REPORT_HTML_FILE)
    return (
        f"the release of {name}/{student} is withheld: {candidate.verdict.statement} {advice}; to release it all the "
        f'same: distill release {name} {student} --override "why"'
    )
