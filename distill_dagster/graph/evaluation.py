"""The `evaluation/<name>` assets: student, base, teacher and the other students on the same held-out rows."""

from collections.abc import Mapping

import dagster as dg

from distill_dagster.evaluation.build import EvaluationBuild, build_evaluation
from distill_dagster.evaluation.planned_calls import Asking
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import calls_metadata, report_metadata, sample
from distill_dagster.graph.pools import judge_turn, mark_step
from distill_dagster.graph.worker import observing, pipes_launch
from distill_dagster.progress import tell
from distill_dagster.project import Distillation

CALLS = {
    Asking.JUDGE: "judge calls",
    Asking.SECOND_ANSWERS: "second answers",
    Asking.GOLDEN_ANSWERS: "golden answers",
}


class EvaluationConfig(dg.Config):
    """What a plan allows an evaluation.

    Attributes:
        planned_calls: the most calls, by `judge`, `second_answers` and `golden_answers`; without a plan as many as
            there are.
    """

    planned_calls: dict[str, int] | None = None


def evaluation_config(distillation: str, planned: Mapping[str, Mapping[Asking, int]]) -> dict[str, object]:
    """Run config of a run with some evaluations.

    Args:
        planned: calls by what for, by student.
    """
    ops = {
        op_name(distillation, student): {"config": {"planned_calls": {str(name): most for name, most in calls.items()}}}
        for student, calls in planned.items()
    }
    return {"ops": ops} if ops else {}


def op_name(distillation: str, student: str) -> str:
    """The step that makes an evaluation, as Dagster names it by its asset."""
    return asset_key(distillation, "evaluation", student).to_python_identifier()


def evaluation_asset(distillation: Distillation, student: str, pool: str | None = None) -> dg.AssetsDefinition:
    """The evaluation of one student."""
    name = distillation.name
    key = asset_key(name, "evaluation", student)

    @dg.asset(
        key=key,
        # all students, for the report shows them side by side: in one run they are trained before
        deps=[
            *(asset_key(name, "student", other) for other in distillation.spec.students),
            asset_key(name, "dataset"),
            *([asset_key(name, "golden_set")] if distillation.spec.evaluation.gate else []),
        ],
        pool=pool,
        **face(distillation, "evaluation", student),
    )
    def evaluation(context: dg.AssetExecutionContext, config: EvaluationConfig) -> dg.MaterializeResult[None]:
        mark_step(context, pool)
        with as_failure(), observing(context, key):
            turn = judge_turn(distillation, context)
            planned = _planned(config)
            build = build_evaluation(
                distillation, student, pipes_launch(context), run=context.run_id, turn=turn, planned=planned
            )
            _tell_calls(build, planned)
        metadata = report_metadata(distillation, build) | sample(distillation, build.side_by_side())
        metadata |= calls_metadata({CALLS[name]: made for name, made in build.calls.items()}, _named(planned))
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(build.version))

    return evaluation


def _planned(config: EvaluationConfig) -> dict[Asking, int] | None:
    if config.planned_calls is None:
        return None
    return {Asking(name): most for name, most in config.planned_calls.items()}


def _named(planned: Mapping[Asking, int] | None) -> dict[str, int] | None:
    return None if planned is None else {CALLS[name]: most for name, most in planned.items()}


def _tell_calls(build: EvaluationBuild, planned: Mapping[Asking, int] | None) -> None:
    """Says how many calls of the plan were made, as the answers to prompts are told of."""
    for asking, most in (planned or {}).items():
        made = build.calls.get(asking, 0)
        if made:
            tell(f"evaluation {build.student}: {made:,} of {most:,} planned {CALLS[asking]} made")
