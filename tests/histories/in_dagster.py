"""What Dagster was told of a project's versions, beside what is on disk."""

import dagster as dg

from distill_dagster.graph.keys import asset_key
from distill_dagster.plan import partitioned_kinds
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current


def untold(distillation: Distillation) -> list[str]:
    """Artifacts in sight whose last materialisation in Dagster is none, or another version."""
    places = [(kind, p) for kind in partitioned_kinds(distillation) for p in distillation.files.partitions(kind)]
    wrong = []
    with dg.DagsterInstance.from_config(str(distillation.project.home / "dagster")) as instance:
        for kind, partition in places:
            current = read_current(distillation.files.asset(kind, partition))
            told = _told(instance, asset_key(distillation.name, kind), partition)
            if current is None or current.version != told:
                wrong.append(f"{kind}/{partition}: {current} on disk, {told} in Dagster")
        singles = [("dataset", "dataset", None)] + [
            (f"{kind}s/{name}", kind, name) for name in distillation.spec.students for kind in ("student", "evaluation")
        ]
        for folder, kind, name in singles:
            current = read_current(distillation.files.asset(folder))
            told = _told(instance, asset_key(distillation.name, kind, name), None)
            if current is None or current.version != told:
                wrong.append(f"{folder}: {current} on disk, {told} in Dagster")
    return wrong


def _told(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> str | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition is not None else None), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    return (records[0].asset_materialization.tags or {}).get("dagster/data_version")
