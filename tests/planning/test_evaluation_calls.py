"""What a plan says evaluations will ask: the most before their answers are there, exact once they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.errors import PlanError
from distill_dagster.evaluation.build import build_evaluation
from distill_dagster.evaluation.planned_calls import Asking
from distill_dagster.planning.evaluation_calls import allowed_calls
from distill_dagster.planning.make import make_plan
from distill_dagster.planning.model import EvaluationCalls, Plan, TeacherCalls
from distill_dagster.project import Distillation
from tests.evaluation.test_build import checkpoints, no_worker
from tests.evaluation.test_second_sample import HostedBench
from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import AnthropicServer
from tests.judging.judges import longer, script

__all__ = ["checkpoints"]
Declare = Callable[..., Distillation]
JUDGE = {"provider": "anthropic", "model": "claude-opus-5-5", "against": ["teacher", "base"]}


@pytest.fixture
def bench(declare: Declare, claude: AnthropicServer, tiny_model: Path, checkpoints: dict[str, Path]) -> HostedBench:
    bench = HostedBench(declare, claude, tiny_model, checkpoints)
    answers, verdicts = claude.script, script(longer)
    claude.script = lambda body, seen: (verdicts if is_verdict(body) else answers)(body, seen)
    return bench


def is_verdict(body: Body) -> bool:
    return "output_config" in body


def calls(plan: Plan, asking: Asking) -> EvaluationCalls:
    (found,) = [one for one in plan.evaluation_calls if one.asking == asking]
    return found


def test_before_there_is_a_dataset_the_most_is_said_and_kept_to(bench: HostedBench, claude: AnthropicServer) -> None:
    declared = {"teacher_resample": 3, "judge": JUDGE}
    plan = make_plan(bench.declared(**declared))
    planned = allowed_calls(plan.evaluation_calls, "first")

    build = bench.run(**declared)

    test_rows = build.report().counts.test_rows
    second, judge = calls(plan, Asking.SECOND_ANSWERS), calls(plan, Asking.JUDGE)
    assert (second.exact, judge.exact) == (False, False)
    assert planned == {Asking.SECOND_ANSWERS: 3, Asking.JUDGE: 2 * 2 * test_rows}
    assert build.calls[Asking.SECOND_ANSWERS] == 3
    verdicts = sum(map(is_verdict, claude.bodies))
    assert 0 < build.calls[Asking.JUDGE] == verdicts <= planned[Asking.JUDGE]
    assert min(second.most_microusd or 0, judge.most_microusd or 0) > 0
    assert make_plan(bench.declared(**declared)).evaluation_calls == ()


def test_with_stored_answers_the_judge_is_counted_call_by_call(bench: HostedBench, claude: AnthropicServer) -> None:
    bench.run()
    judged = bench.declared(judge=JUDGE)
    before = len(claude.accepted)

    found = calls(make_plan(judged), Asking.JUDGE)
    bench.distillation = judged
    build = bench.evaluate("first")

    asked = len(claude.accepted) - before
    assert (found.exact, found.calls) == (True, TeacherCalls(needed=asked))
    assert build.calls[Asking.JUDGE] == asked > 0
    further = bench.declared(judge=JUDGE | {"against": ["base", "teacher"]})
    again = calls(make_plan(further), Asking.JUDGE)
    assert again.calls == TeacherCalls(needed=0, stored=asked)


def test_a_larger_number_of_second_answers_needs_the_difference(bench: HostedBench) -> None:
    bench.run(teacher_resample=2)

    found = calls(make_plan(bench.declared(teacher_resample=4)), Asking.SECOND_ANSWERS)

    assert (found.exact, found.calls) == (True, TeacherCalls(needed=2, stored=2))


def test_new_prompts_make_it_the_most_again(bench: HostedBench) -> None:
    bench.run(teacher_resample=2)
    distillation = bench.declared(teacher_resample=4)
    lines = (distillation.folder / "rows.jsonl").read_text(encoding="utf-8")
    lines += json.dumps({"question": "One more?"}) + "\n"
    (distillation.folder / "rows.jsonl").write_text(lines, encoding="utf-8")

    found = calls(make_plan(distillation), Asking.SECOND_ANSWERS)

    assert (found.exact, found.calls) == (False, TeacherCalls(needed=4))


def test_an_evaluation_asks_nothing_that_was_not_planned(bench: HostedBench, claude: AnthropicServer) -> None:
    bench.run()
    asked = len(claude.accepted)

    for asking, declared in ((Asking.JUDGE, {"judge": JUDGE}), (Asking.SECOND_ANSWERS, {"teacher_resample": True})):
        distillation = bench.declared(**declared)
        with pytest.raises(PlanError, match=r"evaluation\..*and the plan has 1"):
            build_evaluation(distillation, "first", no_worker, planned={asking: 1})
        with pytest.raises(PlanError, match="and the plan has 0"):
            build_evaluation(distillation, "first", no_worker, planned={})

    assert len(claude.accepted) == asked
