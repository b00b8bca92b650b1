"""The judge's table: rates with what they rest on, length, place, and who the judge is."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from distill_dagster.judging.ask import judge_pairs
from distill_dagster.judging.verdicts import JudgeTable, judge_table, judge_tables
from distill_dagster.project import Distillation
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer
from tests.judging.declared import pairs, spec
from tests.judging.judges import always_first, longer, script
from tests.judging.test_outcomes import judged

Declare = Callable[..., Distillation]
JUDGE = PairJudgeSpec(provider="anthropic", model="claude-opus-5-5", rubric="Kind.", against=["base", "teacher"])
HAIKU = TeacherSpec(provider="anthropic", model="claude-haiku-4-5")
WIN, LOSS, TIE, FLIP = ("student", "student"), ("other", "other"), ("tie", "tie"), ("student", "other")


def table(said: pl.DataFrame, given: pl.DataFrame, **changed: Any) -> JudgeTable:
    return judge_table(said, given, JUDGE.model_copy(update=changed), HAIKU, 0.95, 17)


def test_every_pair_is_in_one_count() -> None:
    said = judged(WIN, WIN, WIN, LOSS, TIE, FLIP, ("other", "student"), ("tie", "student"), (None, "other"))
    found = table(said, pairs(*[("mine", "their")] * 9))

    assert (found.pairs, found.wins, found.losses, found.ties, found.unusable) == (9, 3, 1, 4, 1)
    assert (found.flips, found.wavers, found.identical, found.without_answer) == (2, 1, 0, 0)
    assert found.problems == {"unreadable": 1}
    assert (found.win_rate.value, found.win_rate.n) == (pytest.approx(5 / 8), 8)
    assert (found.flip_rate.value, found.flip_rate.n) == (pytest.approx(2 / 6), 6)
    assert JudgeTable.model_validate_json(found.model_dump_json()) == found


def test_what_nobody_was_asked_about_is_in_the_win_rate_and_not_in_what_is_said_of_the_judge() -> None:
    said = judged(TIE, LOSS, WIN, FLIP).with_columns(
        request_key=pl.when(pl.col("prompt_id").is_in(["p0", "p1"])).then(None).otherwise("request_key")
    )
    found = table(said, pairs(("Same.", "Same."), (None, "theirs"), ("mine", "their"), ("my", "your")))

    assert (found.identical, found.without_answer, found.wins, found.losses, found.ties) == (1, 1, 1, 1, 2)
    assert (found.win_rate.value, found.win_rate.n) == (0.5, 4)
    assert (found.flip_rate.value, found.flip_rate.n) == (0.5, 2)
    assert found.first_rate.n == 2
    assert found.length_ratio.value == pytest.approx((5 + 4 + 2) / (5 + 5 + 4))
    assert found.longer_rate.n == 1


def test_the_interval_is_over_groups() -> None:
    said = judged(*[WIN, LOSS] * 10, *[WIN] * 10)
    apart = pairs(*[("mine", "their")] * 30)
    together = apart.with_columns(group_id=pl.when(pl.col("prompt_id") < "p2").then(pl.lit("g")).otherwise("group_id"))

    alone, grouped = table(said, apart).win_rate, table(said, together).win_rate

    assert (alone.value, grouped.value) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (alone.n_clusters, grouped.n_clusters, grouped.n) == (30, 30 - 11, 30)
    assert alone.interval is not None
    assert grouped.interval != alone.interval


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [([WIN] * 27 + [LOSS] * 3, "better"), ([LOSS] * 27 + [WIN] * 3, "worse"), ([WIN, LOSS] * 15, "undecided")],
)
def test_a_side_is_said_only_where_the_whole_interval_is_on_it(verdicts: list[tuple[str, str]], verdict: str) -> None:
    assert table(judged(*verdicts), pairs(*[("mine", "their")] * 30)).verdict == verdict


def test_without_any_variance_nothing_is_decided() -> None:
    found = table(judged(WIN, WIN, WIN), pairs(*[("mine", "their")] * 3))

    assert (found.win_rate.value, found.win_rate.interval, found.verdict) == (1.0, None, "undecided")


def test_nothing_usable_is_undefined_and_not_zero() -> None:
    found = table(judged((None, None), (None, "tie")), pairs(("a", "b"), ("c", "d")))

    assert (found.unusable, found.problems) == (2, {"unreadable": 3})
    for estimate in (found.win_rate, found.flip_rate, found.first_rate, found.longer_rate):
        assert (estimate.value, estimate.interval) == (None, None)


def test_a_judge_that_always_takes_the_first_flips_every_pair(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(always_first)
    found = _judged_by_the_server(declare(spec()), pairs(("a long answer", "b"), ("c", "d"), ("e", "a longer one")))

    assert (found.flip_rate.value, found.flip_rate.n) == (1.0, 3)
    assert found.first_rate.value == 1.0
    assert (found.win_rate.value, found.ties, found.flips) == (0.5, 3, 3)
    assert found.longer_rate.value is None


def test_a_judge_that_takes_the_longer_shows_in_the_lengths(declare: Declare, claude: AnthropicServer) -> None:
    """It never flips, so only the lengths give it away: at like length the student is even."""
    claude.script = script(longer)
    uneven = [(f"{'much longer ' * 5}{number}", f"short {number}") for number in range(6)]
    alike = [(f"{number} alike!", f"{number} alike") for number in range(2)]
    found = _judged_by_the_server(declare(spec()), pairs(*uneven, *alike, *((b, a) for a, b in alike)))

    assert (found.flip_rate.value, found.first_rate.value) == (0.0, 0.5)
    assert (found.wins, found.losses) == (8, 2)
    assert found.longer_rate.value == 1.0
    assert (found.like_length_win_rate.value, found.like_length_win_rate.n) == (0.5, 4)
    assert found.length_ratio.value is not None
    assert found.length_ratio.value > 3


def test_the_teacher_judging_itself_is_disclosed(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = script(longer)
    own = _judged_by_the_server(declare(spec(model="claude-haiku-4-5")), pairs(("a", "bb")))
    sibling = _judged_by_the_server(declare(spec()), pairs(("a", "bb")))

    assert own.self_judging
    assert own.disclosure.startswith("The judge, claude-haiku-4-5 (anthropic), is the teacher itself.")
    assert not sibling.self_judging
    assert "two models of one maker" in sibling.disclosure


def test_one_model_served_in_two_ways_is_still_one() -> None:
    teacher = TeacherSpec(provider="transformers", model="Some/Model-8B")
    served = {"provider": "openai", "base_url": "http://localhost:8000/v1"}
    own = PairJudgeSpec.model_validate(served | {"model": "some/model-8b"})
    other = PairJudgeSpec.model_validate(served | {"model": "some/model-70b"})

    def judged_by(judge: PairJudgeSpec) -> JudgeTable:
        return judge_table(judged(WIN), pairs(("a", "b")), judge, teacher, 0.95, 17)

    assert judged_by(own).self_judging
    assert not judged_by(other).self_judging
    assert judged_by(other).disclosure == (
        "The judge, some/model-70b (openai), is by its name not the teacher, Some/Model-8B (transformers)."
    )


def test_each_opponent_has_a_table_in_the_declared_order() -> None:
    given = pl.concat([pairs(("a", "b")), pairs(("a", "c"), opponent="base")])
    said = pl.concat([judged(WIN), judged(LOSS).with_columns(opponent=pl.lit("base"))])

    tables = judge_tables(said, given, JUDGE, HAIKU, 0.95, 17)

    assert [(one.opponent, one.opponent_label, one.wins) for one in tables] == [
        ("base", "the undistilled base", 0),
        ("teacher", "the teacher", 1),
    ]
    assert judge_tables(said.clear(), given.clear(), JUDGE, HAIKU, 0.95, 17) == []
    with pytest.raises(ValueError, match="one opponent"):
        judge_table(said, given, JUDGE, HAIKU, 0.95, 17)


def _judged_by_the_server(distillation: Distillation, given: pl.DataFrame) -> JudgeTable:
    judge = distillation.spec.evaluation.judge
    assert judge is not None
    said = judge_pairs(distillation, given, no_launch)
    return judge_table(said, given, judge, distillation.spec.teacher, 0.95, 17)
