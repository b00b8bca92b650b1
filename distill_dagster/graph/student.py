"""The `student/<name>` assets: trained checkpoints."""

import dagster as dg

from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import student_metadata
from distill_dagster.graph.pools import mark_step
from distill_dagster.graph.worker import observing, pipes_launch
from distill_dagster.logits.build import ASSET
from distill_dagster.project import Distillation
from distill_dagster.students.build import build_student


def student_asset(distillation: Distillation, student: str, pool: str | None = None) -> dg.AssetsDefinition:
    """One student of a distillation."""
    name = distillation.name
    key = asset_key(name, "student", student)
    spec = distillation.spec.students[student]

    @dg.asset(
        key=key,
        deps=[asset_key(name, asset) for asset in (["dataset", ASSET] if spec.objective == "logit" else ["dataset"])],
        pool=pool,
        **face(distillation, "student", student),
    )
    def student_checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        mark_step(context, pool)
        with as_failure(), observing(context, key):
            build = build_student(
                distillation,
                student,
                pipes_launch(context),
                waiting=lambda: context.log.info("another process is training this student; waiting for it"),
            )
        return dg.MaterializeResult(metadata=student_metadata(build), data_version=dg.DataVersion(build.version))

    return student_checkpoint
