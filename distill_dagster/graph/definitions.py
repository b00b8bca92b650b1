"""All of a distillation's assets, as Dagster definitions."""

import dagster as dg

from distill_dagster.graph.dataset import dataset_asset
from distill_dagster.graph.evaluation import evaluation_asset
from distill_dagster.graph.partitioned import partitioned_assets
from distill_dagster.graph.student import student_asset
from distill_dagster.project import Distillation


def build_definitions(distillation: Distillation) -> dg.Definitions:
    """The graph of one distillation; nothing is read but its declaration."""
    assets = [partitioned_assets(distillation), dataset_asset(distillation)]
    for student in distillation.spec.students:
        assets += [student_asset(distillation, student), evaluation_asset(distillation, student)]
    return dg.Definitions(assets=assets)
