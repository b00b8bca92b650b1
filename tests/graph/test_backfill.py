"""Every way to make some partitions comes to the same: versions on disk, and those versions in Dagster."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_webserver.webserver import DagsterWebserver
from starlette.testclient import TestClient

from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.partitions import RANGE_END, RANGE_START
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation, find_project
from distill_dagster.storage import read_current
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec

ASSETS = ("prompts", "teacher_outputs")
BIN = Path(sys.executable).parent
LAUNCH = """
mutation ($wanted: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $wanted) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
Versions = dict[tuple[str, str], str]


def by_distill_run(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    outcome = Runner(distillation, instance, lambda said: None).run(Request(partitions=["birds", "fish"]))
    assert outcome.failure is None


def by_a_range_in_one_run(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    """As a single-run backfill from the UI or the GraphQL API executes it."""
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    keys = [asset_key("demo", asset) for asset in ASSETS]
    tags = {RANGE_START: "birds", RANGE_END: "fish"}
    assert job.execute_in_process(instance=instance, asset_selection=keys, tags=tags).success


def by_partition_after_partition(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    keys = [asset_key("demo", asset) for asset in ASSETS]
    for partition in ("fish", "birds"):
        assert job.execute_in_process(instance=instance, asset_selection=keys, partition_key=partition).success


def by_dg_launch(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    root = distillation.project.root
    (root / "dg.toml").write_text(
        'directory_type = "project"\n[project]\nroot_module = "assets"\ndefs_module = "assets"\n'
        'code_location_target_module = "distill_dagster.definitions"\n'
        'registry_modules = ["distill_dagster.component"]\n'
    )
    command = [str(BIN / "dg"), "launch", "--assets", "key:demo/prompts or key:demo/teacher_outputs"]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--partition-range", "birds...fish"], cwd=root, env=environment, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def launch_in_this_process(home: Path) -> None:
    """Settings of an instance whose runs start at once, without a daemon."""
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}\n"
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
    )


def by_graphql(distillation: Distillation, instance: dg.DagsterInstance) -> None:
    """A backfill through the API of the UI, which the daemon's code then turns into a run."""
    target = ModuleTarget("distill_dagster.definitions", None, str(distillation.project.root), "demo_code")
    with WorkspaceProcessContext(instance, target) as workspace:
        client = TestClient(DagsterWebserver(workspace).create_asgi_app())
        wanted = {
            "assetSelection": [{"path": ["demo", asset]} for asset in ASSETS],
            "partitionNames": ["birds", "fish"],
        }
        body = {"query": LAUNCH, "variables": {"wanted": wanted}}
        answer = client.post("/graphql", json=body).json()["data"]["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        for _ in range(3):
            list(execute_backfill_iteration(workspace, logging.getLogger(__name__)))
        backfill = instance.get_backfill(answer["backfillId"])
        assert backfill is not None
        assert backfill.status is BulkActionStatus.COMPLETED_SUCCESS


def on_disk(distillation: Distillation) -> Versions:
    found = {
        (asset, partition): read_current(distillation.files.asset(asset, partition))
        for asset in ASSETS
        for partition in distillation.files.partitions(asset)
    }
    return {place: current.version for place, current in found.items() if current is not None}


def in_dagster(instance: dg.DagsterInstance) -> Versions:
    """The newest data version of each partition."""
    found: Versions = {}
    for asset in ASSETS:
        for partition in instance.get_materialized_partitions(asset_key("demo", asset)):
            wanted = dg.AssetRecordsFilter(asset_key("demo", asset), asset_partitions=[partition])
            event: Any = instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
            found[asset, partition] = event.tags["dagster/data_version"]
    return found


def test_all_ways_make_the_same_versions(
    declare: Declare, claude: AnthropicServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = declare(spec(), rows__jsonl=rows(ants=3, birds=4, fish=2)).project.root
    monkeypatch.setenv("DISTILL_PROJECT", str(root))
    made: dict[str, Versions] = {}
    for way in (by_distill_run, by_a_range_in_one_run, by_partition_after_partition, by_dg_launch, by_graphql):
        monkeypatch.setenv("DISTILL_HOME", str(tmp_path / way.__name__))
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / way.__name__ / "dagster"))
        distillation = find_project().distillation("demo")
        if way is by_graphql:
            launch_in_this_process(tmp_path / way.__name__ / "dagster")
        with open_instance(distillation.project) as instance:
            instance.add_dynamic_partitions("demo_partitions", ["ants", "birds", "fish"])
            way(distillation, instance)
            made[way.__name__] = on_disk(distillation)
            assert in_dagster(instance) == made[way.__name__], way

    assert {partition for _, partition in made["by_distill_run"]} == {"birds", "fish"}
    assert all(versions == made["by_distill_run"] for versions in made.values())


def test_a_backfill_after_a_failed_partition_asks_for_what_is_missing_only(
    declare: Declare, claude: AnthropicServer
) -> None:
    broken = rows(birds=4) + '{"topic": "fish", "question": ""}\n'
    distillation = declare(spec(), rows__jsonl=broken)
    with open_instance(distillation.project) as instance:
        instance.add_dynamic_partitions("demo_partitions", ["birds", "fish"])
        with pytest.raises(dg.Failure, match="fish"):
            by_a_range_in_one_run(distillation, instance)
        assert in_dagster(instance).keys() == {("prompts", "birds"), ("teacher_outputs", "birds")}

        mended = declare(spec(), rows__jsonl=rows(birds=4, fish=2))
        by_a_range_in_one_run(mended, instance)

        assert in_dagster(instance) == on_disk(mended)
        assert len(claude.accepted) == 6
        outcome = Runner(mended, instance, lambda said: None).run(Request(until=Asset.TEACHER_OUTPUTS))
        assert outcome.done == []
