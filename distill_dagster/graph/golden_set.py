"""The `golden_set` asset: human-verified prompts and references that no student may learn from."""

import dagster as dg

from distill_dagster.golden.build import ASSET, GOLDEN_SCHEMA, GoldenBuild, build_golden_set
from distill_dagster.graph.face import face
from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.metadata import sample
from distill_dagster.project import Distillation


def golden_set_asset(distillation: Distillation) -> dg.AssetsDefinition:
    """`golden_set` of a distillation."""
    name = distillation.name

    @dg.asset(
        key=asset_key(name, ASSET),
        **face(distillation, "golden_set", columns=GOLDEN_SCHEMA),
    )
    def golden_set(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with as_failure():
            build = build_golden_set(distillation)
        return dg.MaterializeResult(metadata=_metadata(distillation, build), data_version=dg.DataVersion(build.version))

    return golden_set


def _metadata(distillation: Distillation, build: GoldenBuild) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(len(build.frame)),
        "groups": dg.MetadataValue.int(build.frame["group_id"].n_unique()),
        "not verified": dg.MetadataValue.int(build.unverified),
    }
    slices = build.frame.drop_nulls("slice")["slice"].value_counts().sort("slice")
    if len(slices):
        records = [dg.TableRecord({"slice": name, "rows": rows}) for name, rows in slices.iter_rows()]
        metadata["slices"] = dg.MetadataValue.table(records)
    return metadata | sample(distillation, build.frame.select("text", "reference"))
