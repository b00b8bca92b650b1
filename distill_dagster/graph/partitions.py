"""Dagster's partitions for the declared ones."""

import dagster as dg

from distill_dagster.graph.keys import MISSING_PARTITION
from distill_dagster.project import Distillation
from distill_dagster.prompts.partitions import shard_names


def partitions_of(distillation: Distillation) -> dg.PartitionsDefinition[str]:
    """Columns give dynamic partitions, shards static ones, dates daily ones; undeclared is one static partition."""
    partition = distillation.spec.prompts.partition
    if partition is None:
        return dg.StaticPartitionsDefinition([MISSING_PARTITION])
    if partition.by is not None:
        return dg.DynamicPartitionsDefinition(name=dynamic_name(distillation.name))
    if partition.shards is not None:
        return dg.StaticPartitionsDefinition(shard_names(partition.shards))
    return dg.DailyPartitionsDefinition(start_date=str(partition.start), timezone="UTC", end_offset=1)


def dynamic_name(distillation: str) -> str:
    """Name of a distillation's dynamic partitions."""
    return f"{distillation}_partitions"


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
