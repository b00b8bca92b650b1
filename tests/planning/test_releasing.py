"""Releases in a plan: they follow the present verdict, or hang on one to come."""

from collections.abc import Callable

import pytest

from distill_dagster.evaluation.gate import Status
from distill_dagster.planning.effects import Effect
from distill_dagster.planning.releasing import plan_releases
from distill_dagster.project import Distillation
from distill_dagster.releases.build import build_release
from tests.releases.shelf import STUDENT, declared, judge, train

Declare = Callable[..., Distillation]
STAYS = {STUDENT: Effect("none")}


def test_a_pass_is_released_once(declare: Declare) -> None:
    distillation = declared(declare)
    train(distillation)
    judge(distillation, Status.PASS)

    before = plan_releases(distillation, STAYS)
    build_release(distillation, STUDENT)

    assert before == {STUDENT: Effect("will", ("its verdict allows it",))}
    assert plan_releases(distillation, STAYS) == {STUDENT: Effect("none")}


@pytest.mark.parametrize(
    ("status", "why"), [(Status.FAIL, "fail"), (Status.INCONCLUSIVE, "inconclusive"), (None, "no verdict")]
)
def test_another_verdict_withholds_it(declare: Declare, status: Status | None, why: str) -> None:
    distillation = declared(declare)
    train(distillation)
    judge(distillation, status)

    assert plan_releases(distillation, STAYS) == {STUDENT: Effect("none", (f"withheld: {why}",))}


@pytest.mark.parametrize("action", ["will", "may"])
def test_a_verdict_to_come_decides(declare: Declare, action: str) -> None:
    coming = {STUDENT: Effect("will" if action == "will" else "may", ("student small",))}

    assert plan_releases(declared(declare), coming)[STUDENT].action == "may"


def test_without_an_evaluation_nothing_is_released(declare: Declare) -> None:
    nothing = {STUDENT: Effect("none", ("there is no student to measure",))}

    assert plan_releases(declared(declare), nothing)[STUDENT] == Effect(
        "none", ("there is no evaluation to decide by",)
    )


def test_only_candidates_have_a_release(declare: Declare) -> None:
    distillation = declared(declare, more="  other: {base: base, objective: sft}\n", candidates=["other"])

    assert list(plan_releases(distillation, STAYS | {"other": Effect("may")})) == ["other"]
