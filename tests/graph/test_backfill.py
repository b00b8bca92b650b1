"""Every way to make some partitions comes to the same, also at the same time: on disk, in Dagster, and on the bill."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
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
from distill_dagster.plan import Asset, Request, is_anything_due
from distill_dagster.project import Distillation, find_project
from distill_dagster.storage import read_current
from distill_dagster.teachers.outputs import make_teacher
from distill_dagster.teachers.store.spending import spending_of
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import AnthropicServer, Reply, prompt_of
from tests.graph.hosted import Declare, rows, spec

ASSETS = ("prompts", "teacher_outputs")
TOPICS = {"ants": 3, "birds": 4, "fish": 2}
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


SETTINGS = """telemetry: {enabled: false}
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""


@dataclass(frozen=True)
class Ui:
    """A project behind the web server's API; what is launched there runs in this process, without a daemon.

    Its pools have no limit, so that runs can ask the teacher at the same time.
    """

    workspace: WorkspaceProcessContext
    instance: dg.DagsterInstance
    client: TestClient

    def backfill(self, distillation: str, partitions: Sequence[str]) -> None:
        """A backfill through the API, which the daemon's code then turns into a run."""
        wanted = {
            "assetSelection": [{"path": [distillation, asset]} for asset in ASSETS],
            "partitionNames": list(partitions),
        }
        body = {"query": LAUNCH, "variables": {"wanted": wanted}}
        answer = self.client.post("/graphql", json=body).json()["data"]["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        for _ in range(3):
            list(execute_backfill_iteration(self.workspace, logging.getLogger(__name__)))
        backfill = self.instance.get_backfill(answer["backfillId"])
        assert backfill is not None
        assert backfill.status is BulkActionStatus.COMPLETED_SUCCESS


@pytest.fixture(scope="module")
def ui_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the distillation of the other ways, and a larger one."""
    root = tmp_path_factory.mktemp("ui") / "project"
    declarations = {"demo": (spec(), TOPICS), "busy": (spec(concurrency=2), {"bees": 90, "cows": 90})}
    for name, (declared, topics) in declarations.items():
        folder = root / "assets" / name
        folder.mkdir(parents=True)
        text = "type: distill_dagster.Distillation\nattributes:\n" + indent(declared, "  ")
        (folder / "defs.yaml").write_text(text, encoding="utf-8")
        (folder / "rows.jsonl").write_text(rows(**topics), encoding="utf-8")
    home = root / ".distill" / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(SETTINGS, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def ui(ui_root: Path) -> Iterator[Ui]:
    """One web server, and one process with the code location, for all tests of this file."""
    target = ModuleTarget("distill_dagster.definitions", None, str(ui_root), "demo_code")
    with pytest.MonkeyPatch.context() as patch:
        use(ui_root, patch)
        with (
            open_instance(find_project().distillation("demo").project) as instance,
            WorkspaceProcessContext(instance, target) as workspace,
        ):
            instance.add_dynamic_partitions("demo_partitions", list(TOPICS))
            instance.add_dynamic_partitions("busy_partitions", ["bees", "cows"])
            yield Ui(workspace, instance, TestClient(DagsterWebserver(workspace).create_asgi_app()))


def use(root: Path, patch: pytest.MonkeyPatch, home: Path | None = None) -> None:
    """Makes a project that of this process, with another home where one is given."""
    home = home or root / ".distill"
    patch.setenv("DISTILL_PROJECT", str(root))
    patch.setenv("DISTILL_HOME", str(home))
    patch.setenv("DAGSTER_HOME", str(home / "dagster"))


def on_disk(distillation: Distillation) -> Versions:
    found = {
        (asset, partition): read_current(distillation.files.asset(asset, partition))
        for asset in ASSETS
        for partition in distillation.files.partitions(asset)
    }
    return {place: current.version for place, current in found.items() if current is not None}


def in_dagster(instance: dg.DagsterInstance, distillation: str = "demo") -> Versions:
    """The newest data version of each partition."""
    found: Versions = {}
    for asset in ASSETS:
        for partition in instance.get_materialized_partitions(asset_key(distillation, asset)):
            wanted = dg.AssetRecordsFilter(asset_key(distillation, asset), asset_partitions=[partition])
            event: Any = instance.fetch_materializations(wanted, limit=1).records[0].asset_materialization
            found[asset, partition] = event.tags["dagster/data_version"]
    return found


def test_two_runs_and_a_backfill_at_once_end_right_and_pay_nothing_twice(
    claude: AnthropicServer, ui: Ui, ui_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are slow until all three have asked: more are in flight then than two of them would ask at a time."""
    use(ui_root, monkeypatch)
    distillation = find_project().distillation("busy")
    together = threading.Event()

    def script(body: Body, seen: int) -> Reply:
        if claude.in_flight_peak > 2 * distillation.spec.teacher.concurrency:
            together.set()
        return Reply(text=f"About {prompt_of(body)}", delay_s=0 if together.is_set() else 1)

    claude.script = script
    with two_runs("busy") as runs:
        wait_for(lambda: claude.in_flight_peak > distillation.spec.teacher.concurrency, runs)
        ui.backfill("busy", ["bees", "cows"])
        said = [process.communicate(timeout=100)[1] for process in runs]

    assert together.is_set()
    assert [process.returncode for process in runs] == [0, 0], said
    assert len(claude.accepted) == len(set(claude.accepted)) == 180
    assert spending_of(distillation).reserved_microusd == 0
    assert in_dagster(ui.instance, "busy") == on_disk(distillation)
    assert not is_anything_due(distillation, make_teacher(distillation, no_launch), Request())


@contextmanager
def two_runs(distillation: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two `distill run`s, which end with the block at the latest."""
    command = [sys.executable, "-m", "distill_dagster.cli", "run", distillation]
    runs = [subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        yield runs
    finally:
        for process in runs:
            process.kill()


def wait_for(condition: Callable[[], bool], processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert all(process.poll() is None for process in processes), "a run ended too early"
        assert time.monotonic() < deadline, "the runs did not both ask"
        time.sleep(0.05)


def test_all_ways_make_the_same_versions(
    declare: Declare, claude: AnthropicServer, ui: Ui, ui_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(ui_root, monkeypatch)
    ui.backfill("demo", ["birds", "fish"])
    made = {"by_graphql": on_disk(find_project().distillation("demo"))}
    assert in_dagster(ui.instance) == made["by_graphql"]
    root = declare(spec(), rows__jsonl=rows(**TOPICS)).project.root
    for way in (by_distill_run, by_a_range_in_one_run, by_partition_after_partition, by_dg_launch):
        use(root, monkeypatch, tmp_path / way.__name__)
        distillation = find_project().distillation("demo")
        with open_instance(distillation.project) as instance:
            instance.add_dynamic_partitions("demo_partitions", list(TOPICS))
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
