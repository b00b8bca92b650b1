"""Materialises what a plan says, in this process, as Dagster runs on the project's instance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.instance_home import fail_dead_runs, process_tag
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.partitions import partitions_of, register
from distill_dagster.plan import Asset, Request, Step, plan_partitioned, plan_rest
from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import make_teacher, remove_partitions
from distill_dagster.worker_process import no_launch

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
DISTILLATION_TAG = "distill/distillation"
INTERRUPTED = "DagsterExecutionInterruptedError"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: assets made, for people to read.
        failure: what went wrong, if anything did.
        dead_runs: Dagster runs of killed processes that were marked failed.
    """

    done: list[str] = field(default_factory=list)
    failure: str | None = None
    dead_runs: list[str] = field(default_factory=list)


class Runner:
    """Runs one distillation's plan."""

    def __init__(self, distillation: Distillation, instance: dg.DagsterInstance, say: Callable[[str], None]) -> None:
        self._distillation = distillation
        self._instance = instance
        self._say = say
        definitions = build_definitions(distillation)
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def run(self, request: Request) -> Outcome:
        """Makes what is due and no more.

        Raises:
            DistillError: the request or the sources make no sense; nothing ran then.
        """
        outcome = Outcome(dead_runs=fail_dead_runs(self._instance))
        identity = make_teacher(self._distillation, no_launch).identity
        plan = plan_partitioned(self._distillation, identity, request.partitions)
        register(self._distillation, self._instance, list(plan.found))
        if plan.removed:
            remove_partitions(self._distillation, plan.found)
            self._say(f"partitions no longer in the source: {', '.join(plan.removed)}")
        self._run_partitioned(plan.due(request), request, outcome)
        if outcome.failure is None and request.wants(Asset.DATASET):
            steps = plan_rest(self._distillation, identity, request.student_names(self._distillation))
            self._run_rest([step for step in steps if request.wants(step.asset)], outcome)
        return outcome

    def _run_partitioned(self, due: Sequence[str], request: Request, outcome: Outcome) -> None:
        if not due:
            return
        kinds = [asset for asset in (Asset.PROMPTS, Asset.TEACHER_OUTPUTS) if request.wants(asset)]
        self._say(f"{' and '.join(kinds)} of {_listed(due)}")
        order = self._partition_order(due)
        failure = self._execute(
            [asset_key(self._distillation.name, asset) for asset in kinds],
            tags={RANGE_START: order[0], RANGE_END: order[-1]},
            config={"ops": {f"{self._distillation.name}__partitioned": {"config": {"partitions": due}}}},
        )
        outcome.failure = failure
        if failure is None:
            outcome.done += [f"{asset}[{partition}]" for asset in kinds for partition in due]

    def _partition_order(self, due: Sequence[str]) -> list[str]:
        """The due partitions in the order in which Dagster has them, which its ranges refer to."""
        known = partitions_of(self._distillation).get_partition_keys(dynamic_partitions_store=self._instance)
        return [key for key in known if key in set(due)] or list(known)

    def _run_rest(self, steps: Sequence[Step], outcome: Outcome) -> None:
        if not steps:
            return
        names = [f"{step.asset}{f' {step.name}' if step.name else ''}" for step in steps]
        self._say(f"{', '.join(names)}: {steps[0].why}")
        keys = [asset_key(self._distillation.name, step.asset, step.name) for step in steps]
        outcome.failure = self._execute(keys, tags={}, config={})
        if outcome.failure is None:
            outcome.done += names

    def _execute(self, keys: list[dg.AssetKey], tags: dict[str, str], config: dict[str, object]) -> str | None:
        """Executes one Dagster run; returns what failed, or None."""
        result = self._job.execute_in_process(
            instance=self._instance,
            asset_selection=keys,
            tags={**tags, **process_tag(), DISTILLATION_TAG: self._distillation.name},
            run_config={**config, **QUIET},
            raise_on_error=False,
        )
        if result.success:
            return None
        return "\n".join(_failure_text(event) for event in result.get_step_failure_events()) or "the run failed"


def _failure_text(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    if error is not None and error.cls_name == INTERRUPTED:
        return "interrupted"
    return str(error.to_string()) if error is not None else str(event.message)


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more partitions"
