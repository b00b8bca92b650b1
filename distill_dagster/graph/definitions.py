"""All of a distillation's assets, checks and sensors, as Dagster definitions."""

import dagster as dg

from distill_dagster.graph.batch_sensor import batch_sensors
from distill_dagster.graph.dataset import dataset_asset
from distill_dagster.graph.dataset_checks import dataset_checks
from distill_dagster.graph.evaluation import evaluation_asset
from distill_dagster.graph.finding import alone
from distill_dagster.graph.golden_set import golden_set_asset
from distill_dagster.graph.partitioned import partitioned_assets, partitioned_checks
from distill_dagster.graph.pools import GPU, teacher_pool
from distill_dagster.graph.release import gate_checks, release_asset
from distill_dagster.graph.retrain_sensor import retrain_sensors
from distill_dagster.graph.source_sensor import source_sensors
from distill_dagster.graph.student import student_asset
from distill_dagster.project import Distillation
from distill_dagster.releases.candidate import gated_students


def build_definitions(distillation: Distillation) -> dg.Definitions:
    """The graph of one distillation; nothing is read but its declaration."""
    return dg.Definitions(
        assets=build_assets(distillation),
        asset_checks=[*alone(partitioned_checks(distillation)), *following_checks(distillation)],
        sensors=[*batch_sensors(distillation), *source_sensors(distillation), *retrain_sensors(distillation)],
    )


def following_checks(distillation: Distillation) -> list[dg.AssetChecksDefinition]:
    """The checks that run behind their asset, each as a step of its own; those of the gate block."""
    return [*alone(dataset_checks(distillation)), *gate_checks(distillation)]


def build_assets(distillation: Distillation, *, pooled: bool = True) -> list[dg.AssetsDefinition]:
    """The assets alone.

    Args:
        pooled: whether their steps queue in Dagster's pools; a run in this process does so as a whole.
    """
    gpu, teacher = (GPU, teacher_pool(distillation.spec.teacher)) if pooled else (None, None)
    assets = [partitioned_assets(distillation, teacher), dataset_asset(distillation)]
    if distillation.spec.golden_set is not None:
        assets.append(golden_set_asset(distillation))
    for student in distillation.spec.students:
        assets += [student_asset(distillation, student, gpu), evaluation_asset(distillation, student, gpu)]
    assets += [release_asset(distillation, student) for student in gated_students(distillation)]
    return assets
