"""Which unfinished run works, or is going to work, on a distillation's assets."""

from collections.abc import Collection

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from distill_dagster.graph.instance_home import fail_dead_runs
from distill_dagster.graph.pools import step_has_died

UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def run_in_progress(instance: dg.DagsterInstance, keys: Collection[dg.AssetKey], step: str) -> str | None:
    """The id of an unfinished run that selects any of the assets and whose step, where it began, still lives."""
    fail_dead_runs(instance)
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        if set(keys).intersection(run.asset_selection or ()) and not step_has_died(run, step):
            return run.run_id
    return None
