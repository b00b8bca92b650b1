"""`make_plan`: rows by kind, causes by field, calls by request key, and what may follow."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.dataset.build import build_dataset
from distill_dagster.planning.make import make_plan
from distill_dagster.planning.model import AssetPlan, Plan, RowChanges, TeacherCalls
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_settings
from distill_dagster.teachers.store.responses import ResponseStore
from tests.fakes.anthropic_server import AnthropicServer, default_script, prompt_of, refusal
from tests.teachers.hosted import answer

Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {jsonl: rows.jsonl}
  prompt: "{{ question }}"
  id: number
  partition: {by: topic}
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  max_tokens: 50
curation: {drop: []}
"""
STUDENTS = """
students:
  small: {base: {model: nowhere}, objective: sft}
"""


def rows(count: int = 30, **edits: str | None) -> str:
    """Ten questions a topic, numbered; `q7="text"` words one otherwise, `q7=None` leaves it out."""
    lines = []
    for number in range(count):
        question = edits.get(f"q{number}", f"question {number}")
        if question is not None:
            lines.append({"number": number, "topic": f"t{number // 10}", "question": question})
    return "".join(json.dumps(line) + "\n" for line in lines)


def make(distillation: Distillation) -> Distillation:
    """Prompts, answers and dataset, as a run makes them."""
    build = build_prompts(distillation)
    write_settings(distillation, build.render_key, build.settings)
    answer(distillation)
    build_dataset(distillation)
    return distillation


def row(plan: Plan, asset: str, partition: str | None = None) -> AssetPlan:
    return next(one for one in plan.assets if one.asset == asset and one.partition == partition)


def due(plan: Plan) -> list[tuple[str, str | None, str]]:
    return [(one.asset, one.partition, one.action) for one in plan.assets if one.action != "none"]


def test_before_anything_is_made_all_is_new(declare: Declare) -> None:
    plan = make_plan(declare(SPEC + STUDENTS, rows__jsonl=rows()))

    assert plan.rows == RowChanges(new=30)
    assert plan.calls == TeacherCalls(needed=30)
    assert row(plan, "prompts", "t0").why == ("not made yet",)
    assert row(plan, "teacher_outputs", "t0").why == ("not answered yet",)
    assert row(plan, "dataset").why == ("not built yet",)
    assert [one.name for one in plan.of("student") if one.action == "will"] == ["small"]
    assert plan.estimate is not None
    assert plan.estimate.most_microusd is not None
    assert 0 < (plan.estimate.expected_microusd or 0) <= plan.estimate.most_microusd


def test_where_nothing_changed_the_plan_is_empty(declare: Declare, claude: AnthropicServer) -> None:
    plan = make_plan(make(declare(SPEC, rows__jsonl=rows())))

    assert plan.is_empty
    assert (plan.rows, plan.calls, plan.estimate) == (RowChanges(unchanged=30), TeacherCalls(), None)


def test_one_edited_prompt_is_one_changed_row_and_one_call(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC, rows__jsonl=rows(q7="another question")))

    assert due(plan) == [("prompts", "t0", "will"), ("teacher_outputs", "t0", "will"), ("dataset", None, "will")]
    assert row(plan, "prompts", "t0").rows == RowChanges(unchanged=9, changed=1)
    assert row(plan, "prompts", "t0").why == ("rows of the source",)
    assert row(plan, "teacher_outputs", "t0").calls == TeacherCalls(needed=1, stored=9)
    assert plan.calls.needed == 1
    assert row(plan, "dataset").why == ("1 of its prompts are changed or removed",)


def test_rows_that_are_new_or_gone_are_told_apart(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC, rows__jsonl=rows(33, q4=None, q30=None)))

    assert plan.rows == RowChanges(unchanged=29, new=2, removed=1)
    assert row(plan, "prompts", "t0").rows == RowChanges(unchanged=9, removed=1)
    assert row(plan, "prompts", "t3").rows == RowChanges(new=2)
    assert row(plan, "prompts", "t1").action == "none"


def test_new_rows_alone_may_be_dropped_again(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows(29)))

    plan = make_plan(declare(SPEC, rows__jsonl=rows(30)))

    assert row(plan, "dataset").action == "may"
    assert row(plan, "dataset").why == ("1 new prompts",)


def test_a_partition_that_left_the_source_is_removed(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC, rows__jsonl=rows(20)))

    assert row(plan, "prompts", "t2").rows == RowChanges(removed=10)
    assert row(plan, "prompts", "t2").why == ("no longer in the source",)
    assert due(plan) == [("prompts", "t2", "will"), ("dataset", None, "will")]
    assert plan.calls == TeacherCalls()


def test_a_template_changed_and_changed_back_names_its_field_and_needs_no_call(
    declare: Declare, claude: AnthropicServer
) -> None:
    version = build_dataset(make(declare(SPEC, rows__jsonl=rows()))).version
    worded = SPEC.replace("{{ question }}", "Please: {{ question }}")

    before = make_plan(declare(worded, rows__jsonl=rows()))
    make(declare(worded, rows__jsonl=rows()))
    back = make_plan(declare(SPEC, rows__jsonl=rows()))

    assert before.rows == back.rows == RowChanges(changed=30)
    assert row(before, "prompts", "t1").why == row(back, "prompts", "t1").why == ("prompts.prompt",)
    assert (before.calls, back.calls) == (TeacherCalls(needed=30), TeacherCalls(stored=30))
    assert back.estimate is None
    assert row(back, "dataset").adopts == version


def test_several_fields_and_an_edit_are_all_named(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))
    changed = SPEC.replace("  id:", "  system: Be brief.\n  split: {test: 0.2}\n  id:")

    plan = make_plan(declare(changed + "student_prompt: {system: false}\n", rows__jsonl=rows(q3=None)))

    fields = ("prompts.split.test", "prompts.system", "student_prompt.system")
    assert row(plan, "prompts", "t0").why == (*fields, "rows of the source")
    assert row(plan, "prompts", "t1").why == fields


def test_without_a_record_of_the_settings_the_declaration_changed(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC.replace("{{ question }}", "{{ question }}?"), rows__jsonl=rows()))

    assert row(plan, "prompts", "t0").why == ("the declaration changed",)


def test_another_teacher_is_named_by_its_fields(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC.replace("max_tokens: 50", "max_tokens: 60"), rows__jsonl=rows()))

    assert row(plan, "teacher_outputs", "t0").why == ("teacher.max_tokens",)
    assert row(plan, "teacher_outputs", "t0").calls == TeacherCalls(needed=10)
    assert plan.rows == RowChanges(unchanged=30)
    assert (row(plan, "dataset").action, row(plan, "dataset").why) == (
        "may",
        ("answers of 3 partitions are to come",),
    )


def test_only_what_the_teacher_reads_may_change_the_dataset(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))
    shown = SPEC.replace("  id:", "  few_shot: [{prompt: a, completion: b}]\n  id:")

    plan = make_plan(declare(shown, rows__jsonl=rows()))

    assert row(plan, "prompts", "t0").why == ("prompts.few_shot",)
    assert plan.rows == RowChanges(changed=30)
    assert row(plan, "dataset").action == "may"


def test_curation_is_named_by_its_field(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC.replace("drop: []", "drop: [duplicate]"), rows__jsonl=rows()))

    assert due(plan) == [("dataset", None, "may")]
    assert row(plan, "dataset").why == ("curation.drop",)


def test_the_same_question_in_two_partitions_is_one_call(declare: Declare) -> None:
    plan = make_plan(declare(SPEC, rows__jsonl=rows(q5="the same", q15="the same")))

    assert plan.calls == TeacherCalls(needed=29)
    assert row(plan, "teacher_outputs", "t1").calls == TeacherCalls(needed=9)


def test_further_samples_of_refused_prompts_are_not_planned(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: refusal("bio") if prompt_of(body) == "question 3" else default_script(body, seen)
    make(declare(SPEC, rows__jsonl=rows(5)))
    several = SPEC.replace("max_tokens: 50", "max_tokens: 50\n  samples: 3")

    plan = make_plan(declare(several, rows__jsonl=rows(5)))

    assert plan.calls == TeacherCalls(needed=8, stored=5)


def test_moving_a_partition_out_changes_the_split_of_all_its_rows(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC + "evaluation: {held_out_partitions: [t1]}\n", rows__jsonl=rows()))

    assert row(plan, "prompts", "t1").rows == RowChanges(changed=10)
    assert row(plan, "prompts", "t1").why == ("evaluation.held_out_partitions",)
    assert plan.calls.needed == 0
    assert row(plan, "dataset").action == "will"


def test_rows_to_mend_stop_what_follows(declare: Declare, claude: AnthropicServer) -> None:
    make(declare(SPEC, rows__jsonl=rows()))

    plan = make_plan(declare(SPEC, rows__jsonl=rows(q5="")))

    assert list(plan.failed) == ["t0"]
    assert not plan.is_empty
    assert row(plan, "dataset").action == "none"
    assert "the rows of t0 have to be mended" in row(plan, "dataset").why[0]


def test_answers_of_unchanged_prompts_are_asked_again_where_the_store_is_another(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make(declare(SPEC, rows__jsonl=rows()))
    monkeypatch.setenv("DISTILL_STORE_URL", f"sqlite:///{tmp_path / 'other.sqlite'}")

    without = make_plan(declare(SPEC, rows__jsonl=rows(q7="another question")))
    ResponseStore(declare(SPEC).project.store_url)
    empty = make_plan(declare(SPEC))

    assert without.calls == empty.calls == TeacherCalls(needed=10)


@pytest.mark.parametrize("made", [False, True])
def test_a_plan_writes_nothing(declare: Declare, claude: AnthropicServer, made: bool) -> None:
    distillation = declare(SPEC, rows__jsonl=rows())
    if made:
        make(distillation)
    distillation = declare(SPEC, rows__jsonl=rows(q5="edited"))
    before = tree(distillation.project.root)
    asked = len(claude.accepted)

    make_plan(distillation)

    assert tree(distillation.project.root) == before
    assert len(claude.accepted) == asked


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's modification time and content."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }
