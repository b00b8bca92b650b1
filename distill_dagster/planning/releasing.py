"""What becomes of releases: they hang on a verdict, which is known only where the evaluation stays."""

from collections.abc import Mapping

from distill_dagster.planning.effects import Effect
from distill_dagster.project import Distillation


def plan_releases(distillation: Distillation, evaluations: Mapping[str, Effect]) -> dict[str, Effect]:
    """The releases of those students of `evaluations` that have one, by student."""
    if distillation.spec.evaluation.gate is None:
        return {}
    from distill_dagster.releases.candidate import gated_students  # loads SciPy, for those who have a gate only

    return {
        name: _release(distillation, name, evaluations[name])
        for name in gated_students(distillation)
        if name in evaluations
    }


def _release(distillation: Distillation, name: str, evaluation: Effect) -> Effect:
    if evaluation.action == "none" and evaluation.why:
        return Effect("none", ("there is no evaluation to decide by",))
    if evaluation.action != "none":
        return Effect("may", (f"the verdict of evaluation {name}",))
    from distill_dagster.releases.admission import withheld
    from distill_dagster.releases.build import release_due

    refused = withheld(distillation, [name]).get(name)
    if refused is not None:
        return Effect("none", (f"withheld: {str(refused.reason).replace('_', ' ')}",))
    return Effect("will", ("its verdict allows it",)) if release_due(distillation, name) else Effect("none")
