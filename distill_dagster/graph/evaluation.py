"""The `evaluation/<name>` assets: student, base, teacher and the other students on the same held-out rows."""

import dagster as dg

from distill_dagster.evaluation.build import build_evaluation
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import report_metadata, sample
from distill_dagster.graph.pools import judge_turn, mark_step
from distill_dagster.graph.worker import observing, pipes_launch
from distill_dagster.project import Distillation


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
    def evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        mark_step(context, pool)
        with as_failure(), observing(context, key):
            turn = judge_turn(distillation, context)
            build = build_evaluation(distillation, student, pipes_launch(context), run=context.run_id, turn=turn)
        metadata = report_metadata(distillation, build) | sample(distillation, build.side_by_side())
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(build.version))

    return evaluation
