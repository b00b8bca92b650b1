"""Dagster pools: how many steps use the GPU, or ask a provider, at a time, over all runs of an instance.

Dagster counts the steps of its own runs. A run in this process takes its slot here instead: Dagster's wait for one
keeps a core busy and cannot be interrupted (1.13.27).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import dagster as dg

from distill_dagster.process import has_ended, process_identity
from distill_dagster.progress import tell
from distill_dagster.project import Distillation
from distill_dagster.spec.teacher import TeacherSpec

GPU = "gpu"
POLL_S = 1.0
# Names the slot of a run in this process, and its owner: such a run holds one slot for all its steps.
WHOLE_RUN = "distill run "
# Likewise of a step that asks a judge: Dagster gives a step one pool, and an evaluation's is the GPU's.
JUDGING = "distill judge "
STEP_TAG = ".dagster/distill_step/"  # Dagster's prefix keeps it out of the list of runs


def teacher_pool(spec: TeacherSpec) -> str:
    """Where a teacher's answers queue: `teacher_anthropic`, `teacher_openai`, or `gpu` for a local one."""
    return GPU if spec.is_local else f"teacher_{spec.provider}"


def judge_turn(distillation: Distillation, context: dg.AssetExecutionContext) -> AbstractContextManager[None]:
    """A slot of the pool that a hosted judge would have as a teacher; a local one has the step's own."""
    judge = distillation.spec.evaluation.judge
    pool = None if judge is None or judge.is_local else teacher_pool(judge.as_teacher())
    return slot(context.instance, pool, context.run_id, tell, JUDGING)


@contextmanager
def slot(
    instance: dg.DagsterInstance, pool: str | None, run_id: str, say: Callable[[str], None], holds: str = WHOLE_RUN
) -> Iterator[None]:
    """Holds one of a pool's slots during the block, where the instance limits the pool; says so if it has to wait.

    Args:
        holds: what of the run the slot is for.
    """
    if pool is None or not _is_limited(instance, pool):
        yield
        return
    storage = instance.event_log_storage
    holder = f"{holds}{process_identity()}"
    try:
        waiting = False
        while not storage.claim_concurrency_slot(pool, run_id, holder).is_claimed:
            if not waiting:
                say(_why_waiting(instance, pool))
            waiting = True
            time.sleep(POLL_S)
            free_dead_slots(instance)
        yield
    finally:
        storage.free_concurrency_slot_for_step(run_id, holder)


def mark_step(context: dg.AssetExecutionContext, pool: str | None) -> None:
    """Writes down which process executes a step that Dagster gave a slot, so that the slot can be freed if it dies."""
    if pool is None:
        return
    step = context.get_step_execution_context().step.key
    context.instance.add_run_tags(context.run_id, {STEP_TAG + step: process_identity()})


def free_dead_slots(instance: dg.DagsterInstance) -> None:
    """Frees slots, and places in the queues for them, of runs that are over and of processes that ended."""
    storage = instance.event_log_storage
    for info in storage.get_concurrency_infos(list(storage.get_concurrency_keys())).values():
        held = {(claimed.run_id, claimed.step_key) for claimed in info.claimed_slots}
        for run_id, step_key in held.union((step.run_id, step.step_key) for step in info.pending_steps):
            if _is_dead(instance, run_id, step_key):
                storage.free_concurrency_slot_for_step(run_id, step_key)


def step_has_died(run: dg.DagsterRun, step_key: str) -> bool:
    """Whether the process that executed a step of a run is gone; False where it is not known."""
    owner = run.tags.get(STEP_TAG + step_key)
    return owner is not None and has_ended(owner)


def _is_dead(instance: dg.DagsterInstance, run_id: str, step_key: str) -> bool:
    for holds in (WHOLE_RUN, JUDGING):
        if step_key.startswith(holds):
            return has_ended(step_key.removeprefix(holds))
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished or step_has_died(run, step_key)


def _is_limited(instance: dg.DagsterInstance, pool: str) -> bool:
    """Whether steps of a pool queue for slots; makes the slots of the default limit as Dagster does."""
    storage = instance.event_log_storage
    settings = storage.get_pool_config()
    if settings.pool_granularity is not None and settings.pool_granularity.value == "run":
        return False  # Dagster counts whole runs then, those that it launches itself
    default = settings.default_pool_limit
    known = {limit.name: limit for limit in storage.get_pool_limits()}.get(pool)
    if default is not None and (known is None or (known.from_default and known.limit != default)):
        storage.initialize_concurrency_limit_to_default(pool)
    return known is not None or default is not None


def _why_waiting(instance: dg.DagsterInstance, pool: str) -> str:
    info = instance.event_log_storage.get_concurrency_info(pool)
    holders = ", ".join(sorted({f"run {held.run_id[:8]}" for held in info.claimed_slots})) or "runs before this one"
    raise_limit = f"dagster instance concurrency set {pool} {(info.limit or 0) + 1}"
    return f"waiting for {holders} to leave the pool {pool} (limit {info.limit}; to raise it: {raise_limit})"
