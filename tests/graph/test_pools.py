"""Pools: who queues where, runs in this process too; slots of the dead are freed, and nobody waits in silence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from distill_dagster.graph.definitions import build_assets, build_definitions
from distill_dagster.graph.instance_home import PROCESS_TAG, fail_dead_runs, open_instance
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.partitions import range_tags
from distill_dagster.graph.pools import JUDGING, STEP_TAG, WHOLE_RUN, free_dead_slots, judge_turn, slot
from distill_dagster.graph.run import Outcome, Runner
from distill_dagster.plan import Request
from distill_dagster.process import process_identity
from distill_dagster.project import Distillation
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec

POOL = "teacher_anthropic"
STUDENTS = "students: {small: {base: {model: org/model}, objective: sft}}\n"
GONE = f"{os.uname().nodename}/999999999/1"
KILLED = """
import os, signal, sys
from pathlib import Path
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.pools import slot
from distill_dagster.project import Project

die = lambda text="": os.kill(os.getpid(), signal.SIGKILL)
with open_instance(Project(Path(sys.argv[1]), Path(sys.argv[1]) / ".distill")) as instance:
    with slot(instance, "teacher_anthropic", "the-run-of-the-dead", die):
        die()
"""


def pools(distillation: Distillation) -> dict[str, str | None]:
    return {
        str(assets.op.name): assets.op.pool for assets in build_assets(distillation) if isinstance(assets.op.name, str)
    }


def run(distillation: Distillation, instance: dg.DagsterInstance, said: list[str] | None = None) -> Outcome:
    return Runner(distillation, instance, (said if said is not None else []).append).run(Request())


def held(instance: dg.DagsterInstance, pool: str = POOL) -> list[str]:
    """Runs that hold a slot of the pool, or stand in its queue."""
    info = instance.event_log_storage.get_concurrency_info(pool)
    return sorted({one.run_id for one in (*info.claimed_slots, *info.pending_steps)})


def claim(instance: dg.DagsterInstance, run_id: str, step: str) -> bool:
    if POOL not in instance.event_log_storage.get_concurrency_keys():
        instance.event_log_storage.initialize_concurrency_limit_to_default(POOL)
    return instance.event_log_storage.claim_concurrency_slot(POOL, run_id, step).is_claimed


def killed_in_the_pool(project: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(project)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL


def test_each_step_has_its_pool(declare: Declare) -> None:
    claude = pools(declare(spec(STUDENTS), rows__jsonl=""))
    local = pools(declare("prompts: {source: {jsonl: r}, prompt: x}\nteacher: {provider: transformers, model: m}\n"))
    server = spec(provider="openai", model="m", base_url="http://127.0.0.1:1/v1")

    assert claude == {
        "demo__partitioned": "teacher_anthropic",
        "demo__dataset": None,
        "demo__student__small": "gpu",
        "demo__evaluation__small": "gpu",
    }
    assert local["demo__partitioned"] == "gpu"
    assert pools(declare(server))["demo__partitioned"] == "teacher_openai"


def test_the_shipped_settings_let_one_step_a_pool_work(instance: dg.DagsterInstance) -> None:
    settings = instance.get_concurrency_config().pool_config

    assert settings.default_pool_limit == 1
    assert settings.pool_granularity is not None
    assert settings.pool_granularity.value == "op"


def test_a_run_waits_for_its_slot_and_says_so(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    other = f"{WHOLE_RUN}{process_identity()}"
    assert claim(instance, "another-run", other)
    asked: list[int] = []

    def say(text: str) -> None:
        if "waiting" in text:
            asked.append(len(claude.accepted))
            said.append(text)
            instance.event_log_storage.free_concurrency_slot_for_step("another-run", other)

    said: list[str] = []
    outcome = Runner(declare(spec(), rows__jsonl=rows(birds=20)), instance, say).run(Request())

    assert outcome.failure is None
    assert asked == [0]
    assert said == [
        "waiting for run another- to leave the pool teacher_anthropic (limit 1; to raise it: dagster instance "
        "concurrency set teacher_anthropic 2)"
    ]
    assert held(instance) == []


def test_two_runs_work_side_by_side_where_the_limit_allows_it(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    instance.event_log_storage.set_concurrency_slots(POOL, 2)
    assert claim(instance, "another-run", f"{WHOLE_RUN}{process_identity()}")
    said: list[str] = []

    assert run(declare(spec(), rows__jsonl=rows(birds=20)), instance, said).failure is None
    assert not [line for line in said if "waiting" in line]


def test_ctrl_c_ends_the_wait_and_the_place_in_the_queue(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    assert claim(instance, "another-run", f"{WHOLE_RUN}{process_identity()}")

    def say(text: str) -> None:
        if "waiting" in text:
            signal.raise_signal(signal.SIGINT)

    outcome = Runner(declare(spec(), rows__jsonl=rows(birds=20)), instance, say).run(Request())

    assert outcome.failure == "interrupted"
    assert held(instance) == ["another-run"]


def test_slots_and_places_of_killed_runs_are_freed(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=20))
    killed_in_the_pool(distillation.project.root)
    assert held(instance) == ["the-run-of-the-dead"]
    said: list[str] = []

    assert run(distillation, instance, said).failure is None

    assert not [line for line in said if "waiting" in line]
    assert held(instance) == []


def test_one_who_died_in_the_queue_is_not_waited_for(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    other = f"{WHOLE_RUN}{process_identity()}"
    assert claim(instance, "another-run", other)
    distillation = declare(spec(), rows__jsonl=rows(birds=20))
    killed_in_the_pool(distillation.project.root)
    instance.event_log_storage.free_concurrency_slot_for_step("another-run", other)
    assert held(instance) == ["the-run-of-the-dead"]

    assert run(distillation, instance).failure is None


def test_slots_of_steps_that_dagster_launched_are_freed_when_their_process_is_gone(
    instance: dg.DagsterInstance,
) -> None:
    @dg.job
    def nothing() -> None: ...

    instance.event_log_storage.set_concurrency_slots(POOL, 3)
    started = dg.DagsterRunStatus.STARTED
    dead = instance.create_run_for_job(nothing, status=started, tags={f"{STEP_TAG}step": GONE})
    alive = instance.create_run_for_job(nothing, status=started, tags={f"{STEP_TAG}step": process_identity()})
    finished = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.CANCELED)
    assert all(claim(instance, one.run_id, "step") for one in (dead, alive, finished))

    fail_dead_runs(instance)

    assert held(instance) == [alive.run_id]


def test_a_run_that_dagster_executes_takes_and_leaves_its_slot(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=20))
    instance.add_dynamic_partitions("demo_partitions", ["birds"])
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()

    done = job.execute_in_process(
        instance=instance,
        asset_selection=[asset_key("demo", "prompts"), asset_key("demo", "teacher_outputs")],
        tags=range_tags(distillation, instance, ["birds"]),
    )

    assert done.success
    tags = instance.get_runs()[0].tags
    assert tags[f"{STEP_TAG}demo__partitioned"] == process_identity()
    assert PROCESS_TAG not in tags
    assert held(instance) == []
    assert POOL in instance.event_log_storage.get_concurrency_keys()


def test_settings_of_an_earlier_release_limit_nothing(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=20))
    home = distillation.project.dagster_home
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nconcurrency: {runs: {max_concurrent_runs: 4}}\n")
    with open_instance(distillation.project) as instance:
        with slot(instance, POOL, "one", pytest.fail), slot(instance, POOL, "another", pytest.fail):
            assert held(instance) == []
        assert run(distillation, instance).failure is None


def judged(declare: Declare) -> Distillation:
    judge = "evaluation: {judge: {provider: anthropic, model: claude-opus-5-5}}\n"
    return declare(spec(STUDENTS + judge), rows__jsonl="")


def test_a_judge_is_asked_from_a_place_in_its_pool(declare: Declare, instance: dg.DagsterInstance) -> None:
    context = dg.build_asset_context(instance=instance)
    run_id = context.run_id

    with slot(instance, "gpu", run_id, pytest.fail):
        with judge_turn(judged(declare), context):
            assert (held(instance), held(instance, "gpu")) == ([run_id], [run_id])
        assert (held(instance), held(instance, "gpu")) == ([], [run_id])
        with judge_turn(declare(spec(STUDENTS), rows__jsonl=""), context):
            assert held(instance) == []


def test_the_place_of_a_judging_process_that_is_gone_is_freed(instance: dg.DagsterInstance) -> None:
    assert claim(instance, "judging-run", f"{JUDGING}{GONE}")

    free_dead_slots(instance)

    assert held(instance) == []
