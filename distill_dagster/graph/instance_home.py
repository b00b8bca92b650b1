"""The Dagster instance that `distill run` and `distill ui` share, and the runs that died in it."""

import fcntl
import os
import shutil
import sys
from importlib.resources import as_file, files

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from distill_dagster.graph.pools import free_dead_slots
from distill_dagster.process import has_ended, process_identity
from distill_dagster.project import Project
from distill_dagster.storage import write_json

PROCESS_TAG = ".dagster/distill_process"  # Dagster's prefix keeps it out of the list of runs
CODE_LOCATION = "distill_dagster"


def open_instance(project: Project) -> dg.DagsterInstance:
    """The instance at `DAGSTER_HOME`, else at `DISTILL_HOME/dagster`, made with the shipped settings when new."""
    home = project.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    with (home / ".opening").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Dagster trips over itself where two processes make its databases at once
        settings = home / "dagster.yaml"
        if not settings.exists():
            with as_file(files("distill_dagster.graph").joinpath("instance", "dagster.yaml")) as shipped:
                shutil.copyfile(shipped, settings)
        instance = dg.DagsterInstance.get()
        _ = instance.schedule_storage  # the databases are made when they are first asked for
        return instance


def process_tag() -> dict[str, str]:
    """Marks a run with the process that executes it, so that a later start can tell whether it is still alive."""
    return {PROCESS_TAG: process_identity()}


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Marks runs of ended processes on this machine as failed, and frees the slots they held; returns their ids."""
    unfinished = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED]
    dead = []
    for run in instance.get_runs(RunsFilter(statuses=unfinished)):
        owner = run.tags.get(PROCESS_TAG)
        if owner and has_ended(owner):
            instance.report_run_failed(run, "its process ended without a word (killed, or the machine went down)")
            dead.append(run.run_id)
    free_dead_slots(instance)
    return dead


def serve(project: Project, host: str, port: int) -> None:
    """Replaces this process by the Dagster UI and daemon on the project's instance."""
    with open_instance(project) as instance:
        fail_dead_runs(instance)
    workspace = project.home / "workspace.yaml"
    location = {
        "module_name": "distill_dagster.definitions",
        "working_directory": str(project.root),
        "location_name": CODE_LOCATION,
    }
    write_json(workspace, {"load_from": [{"python_module": location}]})  # JSON is YAML
    os.environ["DISTILL_PROJECT"] = str(project.root)
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace)]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])
