"""The `<distillation>_retrain` sensor: once changed content rests, one run asks the teacher and one trains.

It is triggered by versions on disk, so that neither a materialisation with equal content nor an edit that was undone
costs anything. A distillation that was never made is left to a person.
"""

from collections.abc import Sequence

import dagster as dg
from pydantic import BaseModel, ConfigDict

from distill_dagster.golden.build import declared_golden_version
from distill_dagster.graph.in_progress import run_in_progress
from distill_dagster.graph.keys import DISTILLATION_TAG, asset_key
from distill_dagster.graph.partitioned import op_name, partitioned_config
from distill_dagster.graph.partitions import range_tags
from distill_dagster.graph.sensor_tick import Decision, tick
from distill_dagster.graph.spending_guard import RETRAIN_TAG, why_too_dear
from distill_dagster.lineage.hashing import digest
from distill_dagster.plan import Asset, Step, partitioned_kinds, plan_rest, plan_stored
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import prompts_version
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of
from distill_dagster.teachers.outputs import make_teacher
from distill_dagster.teachers.store.database import open_database
from distill_dagster.teachers.store.ledger import open_batch_count
from distill_dagster.worker_process import no_launch


class RetrainCursor(BaseModel):
    """What the sensor remembers.

    Attributes:
        content: digest of the prompts and golden rows as last seen.
        since: when they were first seen so, in seconds since the epoch.
        made: the content of which everything was made.
    """

    model_config = ConfigDict(frozen=True)

    content: str | None = None
    since: float = 0.0
    made: str | None = None


def retrain_sensors(distillation: Distillation) -> list[dg.SensorDefinition]:
    """The sensor, where `automation.retrain` asks for it."""
    automation = distillation.spec.automation
    if automation.retrain == "never":
        return []

    @dg.sensor(
        name=f"{distillation.name}_retrain",
        target=dg.AssetSelection.assets(*_asset_keys(distillation)) - _prompts(distillation),
        minimum_interval_seconds=automation.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks the teacher and trains again once changed prompts or golden rows rest.",
    )
    def retrain(context: dg.SensorEvaluationContext) -> Decision:
        return tick(context, RetrainCursor(), lambda cursor, now: decide(distillation, context.instance, cursor, now))

    return [retrain]


def decide(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: RetrainCursor, now: float
) -> tuple[Decision, RetrainCursor]:
    """The next run that changed content asks for, else why there is none; and what to remember.

    Args:
        distillation: whose prompts.
        instance: where runs are looked up.
        cursor: what the last tick remembered.
        now: seconds since the epoch.

    Raises:
        DistillError: the golden set or the teacher cannot be used as declared.
    """
    content = _content(distillation)
    if content != cursor.content:
        cursor = cursor.model_copy(update={"content": content, "since": now})
    if content == cursor.made:
        return dg.SkipReason("prompts and golden rows are as they were when all was made"), cursor
    left_s = cursor.since + distillation.spec.automation.debounce_minutes * 60 - now
    if left_s > 0:
        return dg.SkipReason(f"content changed; it has to rest for {left_s / 60:.0f} min more"), cursor
    reason = _why_not_now(distillation, instance)
    if reason is not None:
        return dg.SkipReason(reason), cursor
    decision = _next_run(distillation, instance, cursor)
    if decision is None:
        return dg.SkipReason("everything is up to date"), cursor.model_copy(update={"made": content})
    return decision, cursor


def _content(distillation: Distillation) -> str:
    versions = {name: prompts_version(distillation, name) for name in distillation.files.partitions(Asset.PROMPTS)}
    return digest({"prompts": versions, "golden_set": declared_golden_version(distillation)})[:32]


def _why_not_now(distillation: Distillation, instance: dg.DagsterInstance) -> str | None:
    name, students = distillation.name, distillation.spec.students
    made = [asset_of(student) for student in students] or [Asset.DATASET.value]
    never = [asset for asset in made if read_current(distillation.files.asset(asset)) is None]
    if never:
        return f"{', '.join(never)} was never made; the first time is yours: `distill run {name}`"
    running = run_in_progress(instance, _asset_keys(distillation), op_name(name))
    if running is not None:
        return f"run {running[:8]} of this distillation is under way"
    teacher = distillation.spec.teacher
    if teacher.provider == "anthropic" and open_batch_count(open_database(distillation.project.store_url), name):
        return f"answers travel in provider batches, which the sensor {name}_batches collects"
    return None


def _next_run(distillation: Distillation, instance: dg.DagsterInstance, cursor: RetrainCursor) -> Decision | None:
    """What is due on disk: answers first, what is made of them after that."""
    identity = make_teacher(distillation, no_launch).identity
    plan = plan_stored(distillation, identity)
    due = sorted({*plan.outputs, *plan.logits})
    if due:
        return _ask(distillation, instance, cursor, due)
    steps = plan_rest(distillation, identity, list(distillation.spec.students))
    return _make(distillation, instance, cursor, steps) if steps else None


def _ask(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: RetrainCursor, due: Sequence[str]
) -> Decision:
    name = distillation.name
    key = f"answers/{cursor.content}/{cursor.since:.0f}"
    reason = _why_not_again(distillation, instance, key) or why_too_dear(distillation, instance, due)
    if reason is not None:
        return dg.SkipReason(reason)
    tags = range_tags(distillation, instance, due)
    if not tags:
        return dg.SkipReason(f"Dagster knows no partition yet; `distill run {name}` registers them")
    kinds = [kind for kind in partitioned_kinds(distillation) if kind is not Asset.PROMPTS]
    return dg.RunRequest(
        run_key=key,
        run_config=partitioned_config(name, due, wait=False),
        tags={**tags, DISTILLATION_TAG: name, RETRAIN_TAG: key},
        asset_selection=[asset_key(name, kind) for kind in kinds],
        asset_check_keys=[],  # the step evaluates them itself
    )


def _make(
    distillation: Distillation, instance: dg.DagsterInstance, cursor: RetrainCursor, steps: Sequence[Step]
) -> Decision:
    name = distillation.name
    key = f"rest/{cursor.content}/{cursor.since:.0f}"
    reason = _why_not_again(distillation, instance, key)
    if reason is not None:
        return dg.SkipReason(reason)
    return dg.RunRequest(
        run_key=key,
        tags={DISTILLATION_TAG: name, RETRAIN_TAG: key},
        asset_selection=[asset_key(name, step.asset, step.name) for step in steps],
        asset_check_keys=[],
    )


def _why_not_again(distillation: Distillation, instance: dg.DagsterInstance, key: str) -> str | None:
    """One change asks for a run once: a run that failed is a person's to mend."""
    tags = {RETRAIN_TAG: key, DISTILLATION_TAG: distillation.name}
    runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
    if not runs:
        return None
    state = runs[0].status.value.lower()
    return f"run {runs[0].run_id[:8]} for this change ended ({state}) and left work; `distill run {distillation.name}`"


def _asset_keys(distillation: Distillation) -> list[dg.AssetKey]:
    name, spec = distillation.name, distillation.spec
    keys = [asset_key(name, kind) for kind in (*partitioned_kinds(distillation), Asset.DATASET)]
    keys += [asset_key(name, Asset.GOLDEN_SET)] if spec.golden_set is not None else []
    return keys + [
        asset_key(name, kind, student) for student in spec.students for kind in (Asset.STUDENT, Asset.EVALUATION)
    ]


def _prompts(distillation: Distillation) -> dg.AssetSelection:
    return dg.AssetSelection.assets(asset_key(distillation.name, Asset.PROMPTS))
