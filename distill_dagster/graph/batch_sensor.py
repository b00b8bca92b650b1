"""The `<distillation>_batches` sensor: has a run collect provider batches once they have ended.

It only looks: it asks nothing of the teacher, and the run that it requests covers the partitions that wait for a batch
and no others.
"""

import time
from collections.abc import Sequence

import dagster as dg
from dagster import RunsFilter

from distill_dagster.errors import DistillError
from distill_dagster.graph.in_progress import run_in_progress
from distill_dagster.graph.keys import DISTILLATION_TAG, asset_key
from distill_dagster.graph.partitioned import op_name, partitioned_config
from distill_dagster.graph.partitions import partitions_of, range_tags
from distill_dagster.lineage.hashing import digest
from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.outputs import ASSET, make_teacher
from distill_dagster.teachers.store.database import open_database
from distill_dagster.teachers.store.ledger import Batch, Ledger, open_batch_count
from distill_dagster.worker_process import no_launch

INTERVAL_S = 60
BATCHES_TAG = ".dagster/distill_batches"
# After a visit that did not close the batches: the pause before the next, doubled each time.
RETRY_S, LONGEST_RETRY_S = 15 * 60, 24 * 3600

Decision = dg.RunRequest | dg.SkipReason


def batch_sensors(distillation: Distillation) -> list[dg.SensorDefinition]:
    """The sensor, where the distillation may send batches."""
    teacher = distillation.spec.teacher
    if teacher.provider != "anthropic" or teacher.transport == "messages":
        return []

    @dg.sensor(
        name=f"{distillation.name}_batches",
        target=dg.AssetSelection.assets(asset_key(distillation.name, ASSET)),
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Collects the answers of provider batches that have ended.",
    )
    def batches(context: dg.SensorEvaluationContext) -> Decision:
        try:
            return decide(distillation, context.instance)
        except DistillError as error:
            return dg.SkipReason(str(error))

    return [batches]


def decide(distillation: Distillation, instance: dg.DagsterInstance) -> Decision:
    """A run where a batch has ended or got lost, else why there is none.

    Raises:
        DistillError: the response store or the provider cannot be asked now.
    """
    engine = open_database(distillation.project.store_url)
    count = open_batch_count(engine, distillation.name)
    if not count:
        return dg.SkipReason("no batch is under way")
    teacher = make_teacher(distillation, no_launch)
    assert isinstance(teacher, AnthropicTeacher)
    mine = Ledger(engine).find(distillation=distillation.name, identity=teacher.identity.digest)
    if not mine:
        return dg.SkipReason(
            f"{_told(count)} under way, sent when the teacher was declared otherwise; that declaration collects them"
        )
    made = [asset_key(distillation.name, asset) for asset in ("prompts", ASSET)]
    running = run_in_progress(instance, made, op_name(distillation.name))
    if running:
        return dg.SkipReason(f"{_told(len(mine))} under way; run {running[:8]} of this distillation is, too")
    return _request(distillation, instance, teacher, mine)


def _request(
    distillation: Distillation, instance: dg.DagsterInstance, teacher: AnthropicTeacher, mine: Sequence[Batch]
) -> Decision:
    from distill_dagster.graph.open_batches import batches_to_visit, waiting_partitions

    teacher.check()
    ready = batches_to_visit(teacher, mine)
    if not ready:
        minutes = (time.time() - min(batch.intended_at for batch in mine) / 1000) / 60
        return dg.SkipReason(f"{_told(len(mine))} under way, the oldest for {minutes:.0f} min; none has ended")
    name = digest(sorted(f"{batch.id}/{batch.state.value}" for batch in ready))[:32]
    visits, wait_s = _visits(instance, name)
    if wait_s > 0:
        return dg.SkipReason(
            f"{_told(len(ready))} still open after {visits} visits; the next is in {wait_s / 60:.0f} min"
        )
    known = set(partitions_of(distillation).get_partition_keys(dynamic_partitions_store=instance))
    partitions = sorted(known.intersection(waiting_partitions(distillation, teacher)))
    tags = range_tags(distillation, instance, partitions)
    if not tags:
        return dg.SkipReason(f"{_told(len(ready))} ready, but Dagster knows no partition; `distill run` collects them")
    return dg.RunRequest(
        run_key=f"{name}/{visits}",
        run_config=partitioned_config(distillation.name, partitions, wait=False),
        tags={**tags, DISTILLATION_TAG: distillation.name, BATCHES_TAG: name},
        asset_selection=[asset_key(distillation.name, ASSET)],
        asset_check_keys=[],  # the step evaluates them itself
    )


def _visits(instance: dg.DagsterInstance, name: str) -> tuple[int, float]:
    """How often runs have visited these batches in this state, and the seconds until they should again."""
    visits = instance.get_run_records(RunsFilter(tags={BATCHES_TAG: name}))
    if not visits:
        return 0, 0.0
    pause_s = min(RETRY_S * 2.0 ** (len(visits) - 1), LONGEST_RETRY_S)
    return len(visits), max(visit.update_timestamp.timestamp() for visit in visits) + pause_s - time.time()


def _told(batches: int) -> str:
    return "1 batch is" if batches == 1 else f"{batches} batches are"
