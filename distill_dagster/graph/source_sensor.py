"""The `<distillation>_source` sensor: has a run make the prompts of partitions whose source has changed.

It registers partitions as `distill run` does, and reports no materialisation itself: `prompts` are made by the run.
"""

from collections.abc import Mapping

import dagster as dg
from pydantic import BaseModel, ConfigDict

from distill_dagster.graph.keys import DISTILLATION_TAG, asset_key
from distill_dagster.graph.partitioned import partitioned_config
from distill_dagster.graph.partitions import range_tags
from distill_dagster.graph.sensor_tick import Decision, tick
from distill_dagster.graph.source_look import Look, is_quick, last_look, look, look_config, look_job, look_name
from distill_dagster.project import Distillation
from distill_dagster.prompts.fingerprint import Fingerprint, take_fingerprint, why_unwatchable
from distill_dagster.prompts.store import ASSET, prompts_version

ATTEMPTS = 3


class SourceCursor(BaseModel):
    """What the sensor remembers.

    Attributes:
        fingerprint: the source as it was last dealt with.
        number: of the change, so that a change that comes back later is requested again.
        pending: versions that the requested run is going to make, by partition.
        attempts: how often that run was requested.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: Fingerprint | None = None
    number: int = 0
    pending: Mapping[str, str] = {}
    attempts: int = 0


def source_sensors(distillation: Distillation) -> list[dg.SensorDefinition]:
    """The sensor, unless the declaration switches it off."""
    automation = distillation.spec.automation
    if not automation.sensor:
        return []
    name = distillation.name

    @dg.sensor(
        name=f"{name}_source",
        jobs=[look_job(distillation), dg.define_asset_job(prompts_job(name), selection=[asset_key(name, ASSET)])],
        minimum_interval_seconds=automation.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Makes the prompts of partitions whose source has changed.",
    )
    def source(context: dg.SensorEvaluationContext) -> Decision:
        return tick(context, SourceCursor(), lambda cursor, now: decide(distillation, context.instance, cursor, now))

    return [source]


def prompts_job(distillation: str) -> str:
    """Name of the job that makes prompts."""
    return f"{distillation}_prompts"


def decide(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: SourceCursor, now: float
) -> tuple[Decision, SourceCursor]:
    """A run where prompts have changed, else why there is none; and what to remember.

    Args:
        distillation: whose source.
        instance: where its partitions are registered.
        cursor: what the last tick remembered.
        now: seconds since the epoch.

    Raises:
        DistillError: the source cannot be read now.
    """
    reason = why_unwatchable(distillation.spec)
    if reason is not None:
        return dg.SkipReason(reason), cursor
    seen = take_fingerprint(distillation, cursor.fingerprint)
    if cursor.fingerprint is not None and seen.digest == cursor.fingerprint.digest:
        return _unchanged(distillation, instance, cursor.model_copy(update={"fingerprint": seen}))
    if not seen.is_settled(now):
        return dg.SkipReason("a file of the source was written just now; it is read once it rests"), cursor
    found = _look(distillation, instance, seen, cursor)
    if not isinstance(found, Look):
        return found, cursor
    after = SourceCursor(fingerprint=seen, number=cursor.number + 1, pending=found.changed, attempts=1)
    wanted = sorted({*found.changed, *found.failed})
    if not wanted:
        removed = f"; no longer there: {', '.join(found.removed)}" if found.removed else ""
        return dg.SkipReason(f"the source changed, its prompts are those on disk{removed}"), after
    return _request(distillation, instance, after, wanted), after


def _look(
    distillation: Distillation, instance: dg.DagsterInstance, seen: Fingerprint, cursor: SourceCursor
) -> Look | Decision:
    """What reading the source finds; where that takes longer than a tick has, the run that reads it."""
    last = last_look(distillation)
    run_key = f"look/{seen.digest}/{cursor.number}"
    run = _requested(distillation, instance, run_key)
    if run is not None and run.is_success and last is not None and last.fingerprint == seen.digest:
        return last
    if run is not None:
        return dg.SkipReason(f"the source is large; run {run.run_id[:8]} reads it ({run.status.value.lower()})")
    if is_quick(distillation, seen, last):
        return look(distillation, instance, seen.digest, seen.bytes)
    return dg.RunRequest(
        run_key=run_key,
        job_name=look_name(distillation.name),
        run_config=look_config(distillation.name, seen),
        tags={DISTILLATION_TAG: distillation.name},
    )


def _unchanged(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: SourceCursor
) -> tuple[Decision, SourceCursor]:
    """Nothing to do, unless the requested run is over and has not made its prompts."""
    pending = sorted(name for name, version in cursor.pending.items() if prompts_version(distillation, name) != version)
    if not pending:
        return dg.SkipReason("the source is as it was"), cursor.model_copy(update={"pending": {}})
    run = _requested(distillation, instance, _run_key(cursor))
    if run is not None and not run.is_finished:
        return dg.SkipReason(f"run {run.run_id[:8]} makes the changed prompts"), cursor
    if run is not None and cursor.attempts >= ATTEMPTS:
        reason = f"{cursor.attempts} runs, the last {run.run_id[:8]}, have not made the prompts of {', '.join(pending)}"
        return dg.SkipReason(f"{reason}; `distill run {distillation.name}` says why"), cursor
    if run is not None:
        cursor = cursor.model_copy(update={"attempts": cursor.attempts + 1})
    return _request(distillation, instance, cursor, pending), cursor


def _requested(distillation: Distillation, instance: dg.DagsterInstance, run_key: str) -> dg.DagsterRun | None:
    """The run that Dagster made of a request."""
    tags = {"dagster/run_key": run_key, DISTILLATION_TAG: distillation.name}
    return next(iter(instance.get_runs(dg.RunsFilter(tags=tags), limit=1)), None)


def _run_key(cursor: SourceCursor) -> str:
    assert cursor.fingerprint is not None
    return f"{cursor.fingerprint.digest}/{cursor.number}/{cursor.attempts}"


def _request(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: SourceCursor, wanted: list[str]
) -> Decision:
    name = distillation.name
    tags = range_tags(distillation, instance, wanted)
    if not tags:
        return dg.SkipReason(f"rows of the source cannot be placed in a partition; `distill run {name}` says which")
    return dg.RunRequest(
        run_key=_run_key(cursor),
        job_name=prompts_job(name),
        run_config=partitioned_config(name, wanted, wait=False),
        tags={**tags, DISTILLATION_TAG: name},
        asset_selection=[asset_key(name, ASSET)],
    )
