"""Dagster's partitions for the declared ones."""

from collections.abc import Collection

import dagster as dg

from distill_dagster.graph.keys import MISSING_PARTITION
from distill_dagster.project import Distillation
from distill_dagster.prompts.partitions import shard_names

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def partitions_of(distillation: Distillation) -> dg.PartitionsDefinition[str]:
    """Columns give dynamic partitions, shards static ones, dates those of their period; undeclared is a static one."""
    partition = distillation.spec.prompts.partition
    if partition is None:
        return dg.StaticPartitionsDefinition([MISSING_PARTITION])
    if partition.by is not None:
        return dg.DynamicPartitionsDefinition(name=dynamic_name(distillation.name))
    if partition.shards is not None:
        return dg.StaticPartitionsDefinition(shard_names(partition.shards))
    start = str(partition.start)
    if partition.weekly is not None:
        return dg.WeeklyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1, day_offset=1)
    if partition.monthly is not None:
        return dg.MonthlyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1)
    return dg.DailyPartitionsDefinition(start_date=start, timezone="UTC", end_offset=1)


def dynamic_name(distillation: str) -> str:
    """Name of a distillation's dynamic partitions."""
    return f"{distillation}_partitions"


def range_tags(distillation: Distillation, instance: dg.DagsterInstance, wanted: Collection[str]) -> dict[str, str]:
    """Tags of one run over the smallest range, in Dagster's order, that has the wanted partitions it knows.

    Where it knows none of them the range is all of them; it is empty where Dagster knows no partition at all.
    """
    known = list(partitions_of(distillation).get_partition_keys(dynamic_partitions_store=instance))
    order = [key for key in known if key in set(wanted)] or known
    return {RANGE_START: order[0], RANGE_END: order[-1]} if order else {}


def register(distillation: Distillation, instance: dg.DagsterInstance, found: list[str]) -> None:
    """Makes the instance's dynamic partitions those that the source has."""
    definition = partitions_of(distillation)
    if not isinstance(definition, dg.DynamicPartitionsDefinition):
        return
    name = dynamic_name(distillation.name)
    known = set(instance.get_dynamic_partitions(name))
    new = [partition for partition in found if partition not in known]
    if new:
        instance.add_dynamic_partitions(name, new)
    for gone in known.difference(found):
        instance.delete_dynamic_partition(name, gone)
