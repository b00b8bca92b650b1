"""The `dataset` asset: all partitions' answers, curated and split."""

import dagster as dg
import polars as pl

from distill_dagster.dataset.build import DATASET_SCHEMA, build_dataset
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import SAMPLE_ROWS, dataset_metadata
from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import make_teacher, outputs_current
from distill_dagster.worker_process import no_launch


def dataset_asset(distillation: Distillation) -> dg.AssetsDefinition:
    """`dataset` of a distillation; it fails, naming them, while partitions are missing."""
    name = distillation.name

    @dg.asset(
        key=asset_key(name, "dataset"),
        deps=[asset_key(name, asset) for asset in _inputs(distillation)],
        **face(distillation, "dataset", columns=DATASET_SCHEMA),
    )
    def dataset(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with as_failure():
            identity = make_teacher(distillation, no_launch).identity
            build = build_dataset(
                distillation, is_current=lambda partition: outputs_current(distillation, partition, identity)
            )
        train = pl.read_parquet(build.folder / "train.parquet", n_rows=SAMPLE_ROWS)
        return dg.MaterializeResult(
            metadata=dataset_metadata(distillation, build, train), data_version=dg.DataVersion(build.version)
        )

    return dataset


def _inputs(distillation: Distillation) -> list[str]:
    golden = ["golden_set"] if distillation.spec.golden_set is not None else []
    return ["prompts", "teacher_outputs", *golden]
