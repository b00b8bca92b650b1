"""Tells Dagster of versions on disk that it has not heard of: a run that dies publishes first and speaks later."""

from collections.abc import Iterator

import dagster as dg

from distill_dagster.golden.build import ASSET as GOLDEN_SET
from distill_dagster.graph.keys import VERSION_TAG, asset_key
from distill_dagster.plan import Asset, partitioned_kinds
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current

NOTE = "made by a run that ended before it could say so"


def tell_untold(distillation: Distillation, instance: dg.DagsterInstance) -> int:
    """Reports a materialisation for everything in sight whose last one in Dagster has another version, or is none.

    Returns:
        How many were reported.
    """
    told = 0
    for kind in partitioned_kinds(distillation):
        key = asset_key(distillation.name, kind)
        known = instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [VERSION_TAG]
        )
        for partition in distillation.files.partitions(kind):
            current = read_current(distillation.files.asset(kind, partition))
            if current is not None and known.get(partition, {}).get(VERSION_TAG) != current.version:
                told += _tell(instance, key, current.version, partition)
    for key, folder in _unpartitioned(distillation):
        current = read_current(distillation.files.asset(folder))
        if current is not None and _last_version(instance, key) != current.version:
            told += _tell(instance, key, current.version)
    return told


def _unpartitioned(distillation: Distillation) -> Iterator[tuple[dg.AssetKey, str]]:
    """Keys of the declared assets without partitions, and their folders."""
    name = distillation.name
    if distillation.spec.golden_set is not None:
        yield asset_key(name, Asset.GOLDEN_SET), GOLDEN_SET
    yield asset_key(name, Asset.DATASET), "dataset"
    for student in distillation.spec.students:
        yield asset_key(name, Asset.STUDENT, student), f"students/{student}"
        yield asset_key(name, Asset.EVALUATION, student), f"evaluations/{student}"


def _last_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    return (event.asset_materialization.tags or {}).get(VERSION_TAG)


def _tell(instance: dg.DagsterInstance, key: dg.AssetKey, version: str, partition: str | None = None) -> int:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(key, partition=partition, description=NOTE, tags={VERSION_TAG: version})
    )
    return 1
