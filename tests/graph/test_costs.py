"""Money where people look for it: on a run that was cut short, and on a student with its card and manifests."""

import json
from pathlib import Path

import dagster as dg

from distill_dagster.commands.status import status_of
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.storage import read_current
from distill_dagster.students.build import read_student
from distill_dagster.teachers.outputs import read_outputs
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.responses import ResponseStore
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec

TRAINING = "objective: sft, epochs: 1, batch_size: 8, precision: fp32, max_steps: 1"


def test_a_run_that_the_budget_stopped_says_what_it_spent(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(spec(budget_usd=0.002, concurrency=1), rows__jsonl=rows(birds=60))

    outcome = Runner(distillation, instance, lambda text: None).run(Request())

    assert outcome.failure is not None
    assert "budget_usd" in outcome.failure
    with ResponseStore(distillation.project.store_url).writing() as connection:
        spent = Budget.of("demo", None).spent_in(connection)
    (record,) = instance.fetch_observations(asset_key("demo", "teacher_outputs"), limit=1).records
    assert record.asset_observation is not None
    metadata = {name: value.value for name, value in record.asset_observation.metadata.items()}
    assert metadata == {
        "answers of this run": len(claude.accepted),
        "cost USD of this run": spent / 1_000_000,
        "teacher calls planned": 60,
        "teacher calls made": len(claude.accepted),
    }
    assert 0 < len(claude.accepted) < 60


def test_a_student_says_what_its_teacher_cost(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance, tiny_model: Path
) -> None:
    students = f"students: {{small: {{base: {{model: {tiny_model}}}, {TRAINING}}}}}\n"
    declared = spec(students, authorization="agreement 12")
    distillation = declare(declared, rows__jsonl=rows(birds=20, fish=20))

    outcome = Runner(distillation, instance, lambda text: None).run(Request(until=Asset.STUDENT))

    assert outcome.failure is None
    cost = sum(int(read_outputs(distillation, name)["cost_microusd"].sum()) for name in ("birds", "fish"))
    student = read_student(distillation, "small")
    assert student.teacher_cost_microusd == cost
    card = (student.folder / "README.md").read_text(encoding="utf-8")
    assert f"| cost of the teacher's answers | ${cost / 1_000_000:,.4f} |" in card
    assert "agreement 12" in card
    current = read_current(distillation.files.asset("dataset"))
    assert current is not None
    manifest = json.loads((distillation.files.asset("dataset") / current.version / "manifest.json").read_text())
    assert manifest["details"]["authorization"] == "agreement 12"
    made = instance.get_latest_materialization_event(asset_key("demo", "student", "small"))
    assert made is not None
    assert made.asset_materialization is not None
    assert made.asset_materialization.metadata["teacher cost USD"].value == cost / 1_000_000
    row = next(row for row in status_of(distillation).assets if row.asset == Asset.STUDENT)
    assert row.cost_microusd == cost
