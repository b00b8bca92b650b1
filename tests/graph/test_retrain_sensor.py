"""Retraining by itself: once a change rests, once however many edits, and never above the budget."""

import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from distill_dagster.graph import sensor_tick
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import Runner
from distill_dagster.graph.spending_guard import RETRAIN_TAG
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.storage import Current, read_current, write_current
from distill_dagster.teachers.money.dollars import dollars
from distill_dagster.teachers.store.spending import spent_by
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec

AUTOMATION = "automation: {retrain: on_change, debounce_minutes: 30, budget_usd_per_day: %s}"
STUDENT = "students: {small: {base: a/b, objective: sft}}"
OUTPUTS, DATASET = asset_key("demo", "teacher_outputs"), asset_key("demo", "dataset")
MADE = "prompts and golden rows are as they were when all was made"


class Night:
    """A distillation that was made once, and a clock."""

    def __init__(self, declare: Declare, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self._declare = declare
        self.instance = instance
        self.minute = 0
        self._cursor: str | None = None
        monkeypatch.setattr(sensor_tick, "time", SimpleNamespace(time=lambda: 1_800_000_000 + 60 * self.minute))

    def declared(self, budget: str = "5", more: str = "", **files: str) -> Distillation:
        self.distillation = self._declare(spec(f"{AUTOMATION % budget}\n{more}"), **files)
        return self.distillation

    def edit(self, minute: int, text: str) -> None:
        """Changes the source, and has its prompts made as the sensor on the source would."""
        self.minute = minute
        (self.distillation.folder / "rows.jsonl").write_text(text, encoding="utf-8")
        os.utime(self.distillation.folder / "rows.jsonl", (minute, minute))
        Runner(self.distillation, self.instance, lambda said: None).run(Request(until=Asset.PROMPTS))

    def tick(self, minute: int) -> Any:
        self.minute = minute
        definitions = build_definitions(self.distillation)
        sensor = definitions.resolve_sensor_def("demo_retrain")
        with dg.build_sensor_context(instance=self.instance, cursor=self._cursor, definitions=definitions) as context:
            decision = sensor(context)
            self._cursor = context.cursor
        return decision

    def execute(self, request: dg.RunRequest) -> Any:
        """Launches a requested run as the daemon would."""
        return (
            build_definitions(self.distillation)
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=self.instance,
                asset_selection=list(request.asset_selection or ()),
                tags={**request.tags, "dagster/run_key": str(request.run_key)},
                run_config=dict(request.run_config),
                raise_on_error=False,
            )
        )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def night(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Night:
    """Everything is made, and the sensor knows it."""
    made = Night(declare, instance, monkeypatch)
    assert (
        Runner(made.declared(rows__jsonl=rows(birds=12, fish=8)), instance, lambda said: None).run(Request()).failure
        is None
    )
    assert "has to rest for 30 min" in reason(made.tick(0))
    assert reason(made.tick(30)) == "everything is up to date"
    assert reason(made.tick(31)) == MADE
    return made


def reason(decision: Any) -> str:
    assert isinstance(decision, dg.SkipReason), decision
    return str(decision.skip_message)


def selected(request: Any) -> set[dg.AssetKey]:
    assert isinstance(request, dg.RunRequest), request
    return set(request.asset_selection or ())


def test_nobody_who_did_not_ask_for_it_has_the_sensor(declare: Declare) -> None:
    names = [sensor.name for sensor in build_definitions(declare(spec())).sensors or ()]

    assert names == ["demo_source"]


def test_a_night_of_edits_is_one_question_and_one_training(night: Night, claude: AnthropicServer) -> None:
    night.declared(more="")
    asked = len(claude.accepted)
    requests = []
    for edit in range(8):  # one every 20 minutes, ticks in between
        night.edit(100 + 20 * edit, rows(birds=12, fish=9 + edit))
        for minute in range(100 + 20 * edit, 120 + 20 * edit, 5):
            assert "content changed; it has to rest" in reason(night.tick(minute))
    assert len(claude.accepted) == asked

    for minute in range(260, 400, 5):
        decision = night.tick(minute)
        if isinstance(decision, dg.RunRequest):
            requests.append(decision)
            assert night.execute(decision).success

    assert [selected(request) for request in requests] == [{OUTPUTS}, {DATASET}]
    assert requests[0].run_config["ops"]["demo__partitioned"]["config"] == {"partitions": ["fish"], "wait": False}
    assert len(claude.accepted) == asked + 8
    assert reason(night.tick(401)) == MADE


def test_an_edit_that_is_undone_before_it_rests_costs_nothing(night: Night, claude: AnthropicServer) -> None:
    asked = len(claude.accepted)
    night.edit(100, rows(birds=12, fish=9))
    assert "has to rest" in reason(night.tick(101))
    night.edit(110, rows(birds=12, fish=8))

    assert reason(night.tick(111)) == MADE
    assert reason(night.tick(200)) == MADE
    assert len(claude.accepted) == asked


def test_materialising_again_with_equal_content_retrains_nothing(night: Night) -> None:
    job = build_definitions(night.distillation).resolve_job_def("demo_prompts")
    assert job.execute_in_process(instance=night.instance, partition_key="birds").success

    assert reason(night.tick(200)) == MADE


def test_a_partition_that_vanished_retrains_without_a_question(night: Night, claude: AnthropicServer) -> None:
    asked = len(claude.accepted)
    night.edit(100, rows(birds=12))
    night.tick(101)

    request = night.tick(131)

    assert selected(request) == {DATASET}
    assert night.execute(request).success
    assert reason(night.tick(132)) == "everything is up to date"
    assert len(claude.accepted) == asked


def test_a_changed_golden_row_makes_golden_set_and_dataset_again(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def golden(number: int) -> str:
        return json.dumps({"question": f"birds question {number}", "reference": "yes", "verified": True}) + "\n"

    night = Night(declare, instance, monkeypatch)
    declaration = "golden_set: {jsonl: golden.jsonl}"
    night.declared(more=declaration, rows__jsonl=rows(birds=12), golden__jsonl=golden(1))
    Runner(night.distillation, instance, lambda said: None).run(Request())
    night.tick(0)
    night.tick(30)
    night.declared(more=declaration, golden__jsonl=golden(2))
    assert "has to rest" in reason(night.tick(40))

    assert selected(night.tick(70)) == {asset_key("demo", "golden_set"), DATASET}


def test_students_and_evaluations_are_made_with_the_dataset_once_each_was_trained_before(night: Night) -> None:
    night.declared(more=STUDENT)
    night.edit(100, rows(birds=12))
    night.tick(100)
    assert reason(night.tick(130)).startswith("students/small was never made; the first time is yours")

    write_current(night.distillation.files.asset("students/small"), Current(version="0" * 32, build_key="1" * 32))

    keys = [DATASET, asset_key("demo", "student", "small"), asset_key("demo", "evaluation", "small")]
    assert selected(night.tick(131)) == set(keys)


def test_one_run_at_a_time(night: Night) -> None:
    night.edit(100, rows(birds=13, fish=8))
    night.tick(100)
    job = build_definitions(night.distillation).resolve_implicit_global_asset_job_def()
    started = dg.DagsterRunStatus.STARTED
    running = night.instance.create_run_for_job(job, status=started, asset_selection=frozenset({DATASET}))

    assert reason(night.tick(140)) == f"run {running.run_id[:8]} of this distillation is under way"

    night.instance.report_run_failed(running)
    assert isinstance(night.tick(141), dg.RunRequest)


def test_a_run_that_failed_is_not_asked_for_again_by_itself(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.edit(100, rows(birds=13, fish=8))
    night.tick(100)
    request = night.tick(130)
    assert night.tick(130).run_key == request.run_key
    with monkeypatch.context() as keyless:
        keyless.delenv("ANTHROPIC_API_KEY")
        assert not night.execute(request).success

    assert "ended (failure) and left work; `distill run demo`" in reason(night.tick(140))

    night.edit(200, rows(birds=14, fish=8))
    night.tick(200)
    assert night.tick(230).run_key != request.run_key


def test_the_guard_withholds_what_would_cost_too_much_and_says_what_and_why(
    night: Night, claude: AnthropicServer
) -> None:
    asked = len(claude.accepted)
    night.declared(budget="0.0001")
    night.edit(100, rows(birds=12, fish=60))
    night.tick(100)

    said = reason(night.tick(130))

    assert said.startswith("withheld: 52 answers are missing, about $0.0")
    assert "automation.budget_usd_per_day is $0.000100, $0.00 of it spent in the last 24 hours" in said
    assert said.endswith("raise it, or `distill run demo`")
    assert len(claude.accepted) == asked

    night.declared(budget="5")
    assert selected(night.tick(131)) == {OUTPUTS}


def test_what_automatic_runs_spent_counts_for_a_day(night: Night) -> None:
    night.edit(100, rows(birds=12, fish=20))
    night.tick(100)
    first = night.tick(130)
    assert night.execute(first).success
    assert night.execute(night.tick(131)).success
    assert reason(night.tick(132)) == "everything is up to date"
    (run,) = night.instance.get_runs(dg.RunsFilter(tags={RETRAIN_TAG: str(first.run_key)}))
    assert run.is_success

    night.edit(200, rows(birds=12, fish=21))
    night.tick(200)
    assert selected(night.tick(230)) == {OUTPUTS}
    spent = spent_by(night.distillation, [run.run_id])
    assert spent > 0
    night.declared(budget=f"{spent / 1e6:f}")

    said = reason(night.tick(231))
    assert said.startswith("withheld: 1 answer is missing")
    assert f"is {dollars(spent)}, {dollars(spent)} of it spent in the last 24 hours" in said


def test_the_teachers_own_budget_withholds_too(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(declare, instance, monkeypatch)
    night.declared(rows__jsonl=rows(birds=12))
    Runner(night.distillation, instance, lambda said: None).run(Request())
    paid = spec(AUTOMATION % "5", budget_usd=0.002)
    night.distillation = declare(paid)
    night.edit(100, rows(birds=90))
    night.tick(100)

    assert "and teacher.budget_usd leaves $0.00" in reason(night.tick(130))


def test_the_versions_that_automation_made_are_those_on_disk(night: Night) -> None:
    night.edit(100, rows(birds=13, fish=8))
    night.tick(100)
    for _ in range(2):
        assert night.execute(night.tick(130)).success

    on_disk = read_current(night.distillation.files.asset("dataset"))
    event = night.instance.get_latest_materialization_event(DATASET)
    assert event is not None
    assert event.asset_materialization is not None
    assert on_disk is not None
    assert (event.asset_materialization.tags or {})["dagster/data_version"] == on_disk.version


@pytest.mark.parametrize(
    ("provider", "automation", "message"),
    [
        ("anthropic", {"retrain": "on_change"}, "a hosted teacher costs money"),
        ("transformers", {"retrain": "on_change", "budget_usd_per_day": 1}, "cost no money; remove it"),
        ("anthropic", {"watermark": "select 1"}, "only for `prompts.source: {sql: …}`"),
    ],
)
def test_a_declaration_that_cannot_be_right_says_what_to_write(
    provider: str, automation: dict[str, Any], message: str
) -> None:
    attributes = {
        "prompts": {"source": {"jsonl": "rows.jsonl"}, "prompt": "x"},
        "teacher": {"provider": provider, "model": "m"},
        "automation": automation,
    }

    with pytest.raises(ValidationError, match=message):
        DistillationSpec.model_validate(attributes)
