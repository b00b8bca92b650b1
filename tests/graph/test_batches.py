"""Provider batches in Dagster: sent by one run, collected by another that the sensor asks for, once."""

import os
from typing import Any

import dagster as dg
import pytest

from distill_dagster.graph import batch_sensor, open_batches
from distill_dagster.graph.batch_sensor import BATCHES_TAG, batch_sensors
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.pools import STEP_TAG
from distill_dagster.graph.run import Outcome, Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.batching import GRACE_S
from distill_dagster.teachers.outputs import make_teacher, outputs_current, read_outputs
from distill_dagster.teachers.store.database import open_database, writing
from distill_dagster.teachers.store.ledger import Ledger, now_ms
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer, Reply
from tests.graph.hosted import Declare, rows, spec

BATCHED = spec(transport="batches")
OUTPUTS = asset_key("demo", "teacher_outputs")


def sent(distillation: Distillation, instance: dg.DagsterInstance, partitions: list[str] | None = None) -> Outcome:
    """Sends a distillation's batch and does not wait for it."""
    return Runner(distillation, instance, lambda text: None, wait=False).run(Request(partitions))


def tick(distillation: Distillation, instance: dg.DagsterInstance) -> Any:
    """What the sensor decides now."""
    definitions = build_definitions(distillation)
    sensor = definitions.resolve_sensor_def("demo_batches")
    with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
        return sensor(context)


def reason(decision: Any) -> str:
    assert isinstance(decision, dg.SkipReason), decision
    return str(decision.skip_message)


def execute(distillation: Distillation, instance: dg.DagsterInstance, request: dg.RunRequest) -> Any:
    """Launches a requested run as Dagster would."""
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=list(request.asset_selection or ()),
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
        run_config=dict(request.run_config),
        raise_on_error=False,
    )


def observations(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Metadata of all observations of the answers, newest first."""
    records = instance.fetch_observations(OUTPUTS, limit=50).records
    return [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in records
        if record.asset_observation
    ]


def costs(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """What the runs came to, newest first."""
    return [metadata for metadata in observations(instance) if "cost USD of this run" in metadata]


def dollars(distillation: Distillation, *partitions: str) -> float:
    return sum(int(read_outputs(distillation, name)["cost_microusd"].sum()) for name in partitions) / 1_000_000


def test_only_distillations_that_may_send_batches_have_the_sensor(declare: Declare) -> None:
    assert [sensor.name for sensor in batch_sensors(declare(BATCHED))] == ["demo_batches"]
    assert [sensor.name for sensor in batch_sensors(declare(spec(transport="auto")))] == ["demo_batches"]
    assert batch_sensors(declare(spec())) == []
    assert batch_sensors(declare(spec(provider="openai", base_url="http://127.0.0.1:1/v1"))) == []


def test_a_run_that_does_not_wait_leaves_partitions_and_what_needs_them(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20, fish=15))

    outcome = sent(distillation, instance)

    assert outcome.failure is None
    assert outcome.waiting == ["birds", "fish"]
    assert outcome.done == ["prompts[birds]", "prompts[fish]"]
    assert instance.get_runs()[0].status == dg.DagsterRunStatus.SUCCESS
    assert instance.get_materialized_partitions(OUTPUTS) == set()
    seen = next(metadata for metadata in observations(instance) if "answers in provider batches" in metadata)
    assert seen == {"answers in provider batches": 34, "partitions waiting": {"birds": 19, "fish": 15}}


def test_distill_run_waits_for_its_batches(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))

    outcome = Runner(distillation, instance, lambda text: None).run(Request(until=Asset.TEACHER_OUTPUTS))

    assert outcome.waiting == []
    assert outcome.done == ["prompts[birds]", "teacher_outputs[birds]"]
    (cost,) = costs(instance)
    assert cost == {
        "answers of this run": 20,
        "answers stored before": 0,
        "cost USD of this run": dollars(distillation, "birds"),
        "teacher calls planned": 20,
        "teacher calls made": 20,
    }


def test_the_sensor_skips_while_nothing_is_to_be_collected(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    assert reason(tick(distillation, instance)) == "no batch is under way"

    sent(distillation, instance)

    assert reason(tick(distillation, instance)) == "1 batch is under way, the oldest for 0 min; none has ended"


def test_an_ended_batch_is_collected_by_one_run(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20, fish=15))
    sent(distillation, instance)
    claude.end_batches()

    request = tick(distillation, instance)
    assert isinstance(request, dg.RunRequest)
    assert tick(distillation, instance).run_key == request.run_key
    done = execute(distillation, instance, request)

    assert done.success
    assert instance.get_materialized_partitions(OUTPUTS) == {"birds", "fish"}
    assert len(read_outputs(distillation, "birds")) + len(read_outputs(distillation, "fish")) == 35
    assert len(claude.accepted) == 35
    assert [(cost["answers of this run"], cost["answers stored before"]) for cost in costs(instance)] == [
        (34, 1),
        (1, 0),
    ]
    paid = sum(cost["cost USD of this run"] for cost in costs(instance))
    assert paid == pytest.approx(dollars(distillation, "birds", "fish"))
    assert reason(tick(distillation, instance)) == "no batch is under way"


def test_the_requested_run_covers_no_partition_that_nobody_asked_for(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(ants=10, birds=20, fish=15))
    Runner(distillation, instance, lambda text: None).run(Request(until=Asset.PROMPTS))
    sent(distillation, instance, ["birds"])
    claude.end_batches()

    request = tick(distillation, instance)
    execute(distillation, instance, request)

    assert request.run_config["ops"]["demo__partitioned"]["config"] == {"partitions": ["birds"], "wait": False}
    assert instance.get_materialized_partitions(OUTPUTS) == {"birds"}
    assert len(claude.accepted) == 20


def test_a_batch_whose_prompts_changed_is_collected_and_nothing_is_asked(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    sent(declare(BATCHED, rows__jsonl=rows(birds=20)), instance)
    claude.end_batches()
    distillation = declare(BATCHED, rows__jsonl=rows(fish=3))
    Runner(distillation, instance, lambda text: None).run(Request(until=Asset.PROMPTS))

    request = tick(distillation, instance)
    done = execute(distillation, instance, request)

    assert done.success
    assert request.run_config["ops"]["demo__partitioned"]["config"]["partitions"] == []
    assert len(claude.accepted) == 20
    assert reason(tick(distillation, instance)) == "no batch is under way"


def test_no_second_run_while_one_is_in_progress(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    sent(distillation, instance)
    claude.end_batches()
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    started = dg.DagsterRunStatus.STARTED
    running = instance.create_run_for_job(job, status=started, asset_selection=frozenset({OUTPUTS}))

    assert f"run {running.run_id[:8]} of this distillation is, too" in reason(tick(distillation, instance))

    instance.add_run_tags(running.run_id, {f"{STEP_TAG}demo__partitioned": f"{os.uname().nodename}/999999999/1"})
    assert isinstance(tick(distillation, instance), dg.RunRequest)


def test_without_a_key_the_sensor_says_what_it_needs(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    sent(distillation, instance)
    monkeypatch.delenv("ANTHROPIC_API_KEY")

    assert "set ANTHROPIC_API_KEY" in reason(tick(distillation, instance))


def test_a_provider_that_cannot_be_asked_is_a_reason_to_skip(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    sent(distillation, instance)
    claude.retrieve_reply = Reply(status=529)

    assert "run again later" in reason(tick(distillation, instance))


def test_a_visit_that_did_not_close_the_batch_is_made_again_but_not_at_once(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    sent(distillation, instance)
    claude.end_batches()
    first = tick(distillation, instance)
    claude.retrieve_reply = Reply(status=400)
    assert not execute(distillation, instance, first).success
    claude.retrieve_reply = None

    assert "the next is in 15 min" in reason(tick(distillation, instance))

    monkeypatch.setattr(batch_sensor, "RETRY_S", 0)
    again = tick(distillation, instance)
    assert again.tags[BATCHES_TAG] == first.tags[BATCHES_TAG]
    assert again.run_key != first.run_key


def test_a_batch_of_which_nobody_knows_is_looked_for_once_it_is_old_enough(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    Runner(distillation, instance, lambda text: None).run(Request(until=Asset.PROMPTS))
    engine = open_database(distillation.project.store_url)
    identity = make_teacher(distillation, no_launch).identity
    with writing(engine) as connection:
        batch = Ledger(engine).intend_in(connection, "demo", identity.digest, ["a" * 64], None)
    Ledger(engine).sending(batch)
    assert "none has ended" in reason(tick(distillation, instance))

    later = now_ms() + int(GRACE_S * 1000) + 1
    monkeypatch.setattr(open_batches, "now_ms", lambda: later)
    monkeypatch.setattr("distill_dagster.teachers.anthropic.batching.now_ms", lambda: later)
    request = tick(distillation, instance)
    execute(distillation, instance, request)

    assert reason(tick(distillation, instance)) == "no batch is under way"
    assert claude.accepted == []


def test_batches_of_another_declaration_are_left_to_it(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    claude.hold_batches = True
    distillation = declare(BATCHED, rows__jsonl=rows(birds=20))
    sent(distillation, instance)

    told = reason(tick(declare(spec(transport="batches", max_tokens=60)), instance))

    assert "sent when the teacher was declared otherwise" in told
    assert not outputs_current(distillation, "birds", make_teacher(distillation, no_launch).identity)
