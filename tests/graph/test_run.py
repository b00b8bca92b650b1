"""`Runner` on a hosted teacher: the plan, Dagster's events and data versions, failures that keep what is done."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from distill_dagster.errors import DistillError
from distill_dagster.graph.instance_home import PROCESS_TAG, fail_dead_runs, open_instance
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import PLANNED_TAG, Outcome, Runner
from distill_dagster.plan import Asset, Request, is_anything_due
from distill_dagster.planning.calls import CallPlan
from distill_dagster.planning.make import planned_calls
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from distill_dagster.teachers.outputs import make_teacher, read_outputs
from distill_dagster.teachers.store.removal import remove_responses
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import KEY, AnthropicServer, Reply

Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {jsonl: rows.jsonl}
  prompt: "{{ question }}"
  partition: {by: topic}
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  max_tokens: 50
"""


def rows(**topics: int) -> str:
    lines = [
        {"topic": topic, "question": f"{topic} question {number}"}
        for topic, count in topics.items()
        for number in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def run(distillation: Distillation, instance: dg.DagsterInstance, request: Request | None = None) -> Outcome:
    return Runner(distillation, instance, lambda text: None).run(request or Request())


@pytest.fixture
def instance(declare: Declare) -> Iterator[dg.DagsterInstance]:
    with open_instance(declare(SPEC, rows__jsonl="").project) as made:
        yield made


def versions(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> list[str]:
    """Data versions of all materialisations of an asset, newest first."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key("demo", asset), asset_partitions=[partition] if partition else None), limit=20
    ).records
    return [
        str(dict(r.asset_materialization.tags or {})["dagster/data_version"])
        for r in records
        if r.asset_materialization
    ]


def test_a_run_makes_everything_and_dagster_knows_the_disk_versions(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20, fish=15))

    outcome = run(distillation, instance)

    assert outcome.failure is None
    assert instance.get_dynamic_partitions("demo_partitions") == ["birds", "fish"]
    for asset in ("prompts", "teacher_outputs"):
        for partition in ("birds", "fish"):
            on_disk = read_current(distillation.files.asset(asset, partition))
            assert on_disk is not None
            assert versions(instance, asset, partition) == [on_disk.version]
    dataset = read_current(distillation.files.asset("dataset"))
    assert dataset is not None
    assert versions(instance, "dataset") == [dataset.version]


def test_a_second_run_does_nothing(declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20))
    run(distillation, instance)
    runs = len(instance.get_runs())

    outcome = run(distillation, instance)

    assert outcome.done == []
    assert len(instance.get_runs()) == runs


def test_one_edited_prompt_redoes_its_partition_only(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    run(declare(SPEC, rows__jsonl=rows(birds=20, fish=15)), instance)
    untouched = {
        path: path.stat().st_mtime_ns for path in declare(SPEC).files.asset("teacher_outputs", "birds").iterdir()
    }

    edited = rows(birds=20, fish=15).replace("fish question 3", "fish question 3, edited")
    outcome = run(declare(SPEC, rows__jsonl=edited), instance)

    assert outcome.done == ["prompts[fish]", "teacher_outputs[fish]", "dataset"]
    assert claude.accepted[35:] == ["fish question 3, edited"]
    assert len(versions(instance, "teacher_outputs", "birds")) == 1
    assert len(versions(instance, "teacher_outputs", "fish")) == 2
    assert all(path.stat().st_mtime_ns == before for path, before in untouched.items())


def test_undoing_an_edit_brings_back_the_old_versions_for_free(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    first = declare(SPEC, rows__jsonl=rows(birds=20))
    run(first, instance)
    before = read_current(first.files.asset("dataset"))
    run(declare(SPEC, rows__jsonl=rows(birds=21)), instance)
    assert read_current(first.files.asset("dataset")) != before

    run(declare(SPEC, rows__jsonl=rows(birds=20)), instance)

    assert read_current(first.files.asset("dataset")) == before
    assert len(claude.accepted) == 21


def test_a_partition_that_left_the_source_leaves_the_dataset(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20, fish=15))
    run(distillation, instance)
    run(declare(SPEC, rows__jsonl=rows(birds=20)), instance)

    assert instance.get_dynamic_partitions("demo_partitions") == ["birds"]
    assert distillation.files.partitions("teacher_outputs") == ["birds"]


def test_a_broken_row_fails_its_partition_and_keeps_the_others(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    broken = rows(birds=20) + '{"topic": "fish", "question": ""}\n'
    distillation = declare(SPEC, rows__jsonl=broken)

    outcome = run(distillation, instance)

    assert outcome.failure is not None
    assert "fish" in outcome.failure
    assert "rows.jsonl:21" in outcome.failure
    assert distillation.files.partitions("teacher_outputs") == ["birds"]
    assert read_current(distillation.files.asset("dataset")) is None
    assert instance.get_runs()[0].status == dg.DagsterRunStatus.FAILURE


def test_a_request_for_one_partition_stops_before_the_dataset(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20, fish=15))

    outcome = run(distillation, instance, Request(partitions=["fish"]))

    assert outcome.done == ["prompts[fish]", "teacher_outputs[fish]"]
    assert read_current(distillation.files.asset("dataset")) is None


def test_until_stops_where_it_says(declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance) -> None:
    outcome = run(declare(SPEC, rows__jsonl=rows(birds=20)), instance, Request(until=Asset.PROMPTS))

    assert outcome.done == ["prompts[birds]"]
    assert claude.accepted == []


def test_an_unknown_partition_or_student_is_refused(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20))

    with pytest.raises(DistillError, match=r"no partition cats in the source \(known: birds\)"):
        run(distillation, instance, Request(partitions=["cats"]))
    with pytest.raises(DistillError, match=r"no student big is declared"):
        run(distillation, instance, Request(students=["big"]))


def test_no_prompt_text_enters_the_event_log(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=20))
    run(distillation, instance)

    logs = [str(entry) for record in instance.get_runs() for entry in instance.all_logs(record.run_id)]

    assert logs
    assert all("birds question" not in entry for entry in logs)


def test_a_run_whose_process_is_gone_is_marked_failed(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None: ...

    import os

    dead = instance.create_run_for_job(
        nothing, tags={PROCESS_TAG: f"{os.uname().nodename}/999999999/1"}, status=dg.DagsterRunStatus.STARTED
    )
    elsewhere = instance.create_run_for_job(
        nothing, tags={PROCESS_TAG: "another-machine/1/1"}, status=dg.DagsterRunStatus.STARTED
    )

    assert fail_dead_runs(instance) == [dead.run_id]
    assert instance.get_run_by_id(elsewhere.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_the_key_is_in_no_event_file_or_traceback(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    """Not even when the API repeats it in an error that fails the run."""
    run(declare(SPEC, rows__jsonl=rows(birds=20)), instance)
    claude.script = lambda body, seen: Reply(status=401, error_message=f"no such key: {KEY}")
    distillation = declare(SPEC, rows__jsonl=rows(birds=30))

    outcome = run(distillation, instance)

    assert outcome.failure is not None
    assert "no such key: [key]" in outcome.failure
    logs = [str(entry) for record in instance.get_runs() for entry in instance.all_logs(record.run_id)]
    assert all(KEY not in entry for entry in logs)
    places = (distillation.project.root, distillation.project.dagster_home)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_a_golden_set_is_read_before_the_dataset_and_its_rows_are_kept_out(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    spec = SPEC.replace("teacher:", "golden_set: {jsonl: golden.jsonl}\nteacher:")
    golden = json.dumps({"question": "birds question 3", "reference": "yes", "verified": True}) + "\n"

    distillation = declare(spec, rows__jsonl=rows(birds=20), golden__jsonl=golden)
    outcome = run(distillation, instance)

    assert outcome.failure is None
    assert outcome.done[-2:] == ["golden_set", "dataset"]
    on_disk = read_current(distillation.files.asset("golden_set"))
    assert on_disk is not None
    assert versions(instance, "golden_set") == [on_disk.version]
    assert run(distillation, instance).done == []

    changed = golden.replace("question 3", "question 4")
    assert run(declare(spec, golden__jsonl=changed), instance).done == ["golden_set", "dataset"]
    assert len(claude.accepted) == 20


def test_a_bad_golden_row_is_told_of_before_the_teacher_is_paid(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    spec = SPEC.replace("teacher:", "golden_set: {jsonl: golden.jsonl}\nteacher:")
    golden = json.dumps({"question": "Why?", "verified": True}) + "\n"
    distillation = declare(spec, rows__jsonl=rows(birds=20), golden__jsonl=golden)

    with pytest.raises(DistillError, match=r"golden\.jsonl:1: no reference"):
        run(distillation, instance)
    assert claude.accepted == []

    prompts = Request(until=Asset.PROMPTS)
    assert run(distillation, instance, prompts).done == ["prompts[birds]"]
    assert not is_anything_due(distillation, make_teacher(distillation, no_launch), prompts)


def test_the_record_of_a_run_says_what_was_planned_and_made(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    run(declare(SPEC, rows__jsonl=rows(birds=20)), instance)

    run(declare(SPEC, rows__jsonl=rows(birds=20, fish=3)), instance)

    last = instance.get_runs()[1]  # the dataset's run is newer
    assert last.tags[PLANNED_TAG] == "3"
    observed = instance.fetch_observations(asset_key("demo", "teacher_outputs"), limit=1).records[0].asset_observation
    assert observed is not None
    assert observed.metadata["teacher calls planned"].value == 3
    assert observed.metadata["teacher calls made"].value == 3
    assert "3 of 3 planned calls made" in str(observed.description)


def test_a_run_counts_answers_that_a_store_has_lost(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    """Each of the unchanged prompts is looked up; `distill plan` looks up twenty."""
    distillation = declare(SPEC, rows__jsonl=rows(birds=40))
    run(distillation, instance)
    lost = read_outputs(distillation, "birds")["request_key"][-5:].to_list()
    remove_responses(ResponseStore(distillation.project.store_url).engine, lost)

    outcome = run(declare(SPEC, rows__jsonl=rows(birds=41)), instance)

    assert outcome.failure is None
    assert instance.get_runs()[1].tags[PLANNED_TAG] == "6"
    assert len(claude.accepted) == 40 + 6


def test_a_run_asks_no_more_than_its_plan(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = declare(SPEC, rows__jsonl=rows(birds=3))

    def source_changes_meanwhile(*arguments: Any) -> CallPlan:
        calls = planned_calls(*arguments)
        declare(SPEC, rows__jsonl=rows(birds=4))
        return calls

    monkeypatch.setattr("distill_dagster.graph.run.planned_calls", source_changes_meanwhile)
    outcome = run(distillation, instance)

    assert "4 requests have no answer, and the plan has 3" in str(outcome.failure)
    assert claude.accepted == []
