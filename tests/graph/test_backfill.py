"""Every way to make some partitions comes to the same: versions on disk, and those versions in Dagster."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.partitions import RANGE_END, RANGE_START
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec

ASSETS = ("prompts", "teacher_outputs")
BIN = Path(sys.executable).parent
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


@pytest.mark.parametrize("way", [by_distill_run, by_a_range_in_one_run, by_partition_after_partition, by_dg_launch])
def test_all_ways_make_the_same_versions(
    declare: Declare,
    claude: AnthropicServer,
    tmp_path: Path,
    way: Callable[[Distillation, dg.DagsterInstance], None],
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(ants=3, birds=4, fish=2))
    with open_instance(distillation.project) as instance:
        instance.add_dynamic_partitions("demo_partitions", ["ants", "birds", "fish"])
        way(distillation, instance)

        made = on_disk(distillation)
        assert {partition for _, partition in made} == {"birds", "fish"}
        assert in_dagster(instance) == made
        assert made == EXPECTED or not EXPECTED
        EXPECTED.update(made)


EXPECTED: Versions = {}


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
