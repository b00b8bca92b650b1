"""Each rule of the gate, on rows small enough to count."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from distill_dagster.evaluation.exact_bounds import exact_bounds
from distill_dagster.evaluation.gate import Decision, GateRule, GoldenScores, Status, combine, decide

RULE = GateRule(max_degradation=0.1)


def _yes_no(n: int, only_student: int, only_teacher: int, base_right: int | None = None) -> GoldenScores:
    """Golden rows of which both get all others right, one row a group."""
    rows = np.arange(n)
    student, teacher = np.ones(n), np.ones(n)
    teacher[:only_student] = 0
    student[n - only_teacher :] = 0
    base = None if base_right is None else (rows < base_right).astype(float)
    return GoldenScores(student, teacher, base, rows)


def _scores(difference: float, spread: float, n: int) -> GoldenScores:
    """The teacher scores 0.5 everywhere, the student as much more on average as `difference` says."""
    noise = np.linspace(-spread, spread, n)
    return GoldenScores(0.5 + difference + noise, np.full(n, 0.5), None, np.arange(n))


def test_yes_no_rows_of_their_own_have_tangos_bounds_made_exact() -> None:
    decision = decide(_yes_no(300, 9, 12), RULE)

    assert (decision.status, decision.method) == (Status.PASS, "tango")
    assert (decision.low, decision.high) == exact_bounds(9, 12, 300, 0.05)
    assert (decision.n, decision.n_clusters, decision.alpha, decision.rows_to_decide) == (300, 300, 0.05, None)
    assert "-0.010" in decision.reason
    assert "0.100" in decision.reason


def test_other_scores_have_bounds_over_groups() -> None:
    decision = decide(_scores(-0.01, 0.1, 300), RULE)

    assert (decision.status, decision.method, decision.difference) == (Status.PASS, "cluster_t", pytest.approx(-0.01))


def test_yes_no_rows_in_groups_do_not_count_as_independent() -> None:
    alone = _yes_no(300, 6, 12)
    grouped = dataclasses.replace(alone, clusters=np.arange(300) // 5)

    one, other = decide(alone, RULE), decide(grouped, RULE)

    assert (other.method, other.n_clusters) == ("cluster_t", 60)
    assert one.low is not None
    assert other.low is not None
    assert other.low < one.low


def test_yes_no_rows_in_groups_without_disagreement_are_bounded_by_the_number_of_groups() -> None:
    groups = {
        n: decide(dataclasses.replace(_yes_no(n * 5, 0, 0), clusters=np.arange(n * 5) // 5), RULE) for n in (20, 40)
    }

    assert [decision.status for decision in groups.values()] == [Status.INCONCLUSIVE, Status.PASS]


def test_a_clear_loss_fails() -> None:
    assert decide(_yes_no(300, 0, 60), RULE).status is Status.FAIL
    assert decide(_scores(-0.2, 0.2, 300), RULE).status is Status.FAIL


def test_what_is_not_known_says_how_many_rows_would_tell() -> None:
    decision = decide(_yes_no(10, 0, 0), RULE)

    assert (decision.status, decision.rows_to_decide) == (Status.INCONCLUSIVE, 30)
    assert "about 30 golden rows" in decision.reason
    assert decide(_yes_no(28, 0, 0), RULE).status is Status.INCONCLUSIVE
    assert decide(_yes_no(29, 0, 0), RULE).status is Status.PASS


@pytest.mark.parametrize(
    ("golden", "seen"),
    [
        (lambda n: _yes_no(n, n // 20, n // 20), 20),
        (lambda n: _yes_no(n, 0, n // 4), 20),
        (lambda n: _scores(-0.02, 0.3, n), 20),
        (lambda n: _scores(0.0, 0.01, n), 6),
    ],
)
def test_about_as_many_rows_as_it_says_decide_if_nothing_else_changes(
    golden: Callable[[int], GoldenScores], seen: int
) -> None:
    rows = decide(golden(seen), RULE).rows_to_decide

    assert rows is not None
    assert decide(golden(round(1.2 * rows)), RULE).status is not Status.INCONCLUSIVE
    assert decide(golden(round(0.6 * rows)), RULE).status is Status.INCONCLUSIVE


def test_on_the_line_no_number_of_rows_is_named() -> None:
    decision = decide(_yes_no(100, 0, 10), RULE)

    assert (decision.status, decision.rows_to_decide) == (Status.INCONCLUSIVE, None)
    assert "cannot be told" in decision.reason


def test_scores_without_variance_are_no_evidence() -> None:
    decision = decide(GoldenScores([0.7] * 50, [0.7] * 50, None, range(50)), RULE)

    assert (decision.status, decision.method, decision.low) == (Status.INCONCLUSIVE, "none", None)
    assert "no evidence" in decision.reason


@pytest.mark.parametrize(("n", "groups"), [(0, 0), (1, 1), (9, 1)])
def test_fewer_than_two_groups_decide_nothing(n: int, groups: int) -> None:
    decision = decide(GoldenScores([1.0] * n, [1.0] * n, None, ["a"] * n), RULE)

    assert (decision.status, decision.n, decision.n_clusters) == (Status.INCONCLUSIVE, n, groups)


@pytest.mark.parametrize(
    ("min_score", "status"), [(0.9, Status.PASS), (0.96, Status.INCONCLUSIVE), (0.995, Status.FAIL)]
)
def test_the_floor_is_tested_with_the_students_own_bounds(min_score: float, status: Status) -> None:
    decision = decide(_yes_no(300, 0, 12), GateRule(0.1, min_score))

    assert decision.status is status
    assert f"{min_score:.3f} is required" in decision.reason
    assert (decision.rows_to_decide is not None) == (min_score == 0.9 and status is Status.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("min_score", "status"), [(0.45, Status.PASS), (0.5, Status.INCONCLUSIVE), (0.55, Status.FAIL)]
)
def test_the_floor_of_other_scores(min_score: float, status: Status) -> None:
    assert decide(_scores(-0.001, 0.2, 300), GateRule(0.1, min_score)).status is status


def test_an_own_score_without_variance_leaves_the_floor_open() -> None:
    teacher = np.random.default_rng(1).uniform(0.6, 0.8, 100)

    decision = decide(GoldenScores([0.8] * 100, teacher, None, range(100)), GateRule(0.1, 0.5))

    assert (decision.status, decision.rows_to_decide) == (Status.INCONCLUSIVE, None)


def test_where_the_base_would_pass_too_the_rows_cannot_tell() -> None:
    decision = decide(_yes_no(300, 0, 2, base_right=290), RULE)

    assert (decision.status, decision.base_would_pass) == (Status.INCONCLUSIVE, True)
    assert "base" in decision.reason


def test_a_base_below_the_floor_does_not_count() -> None:
    scores = GoldenScores([1.0] * 200, [0.0, 1.0] * 100, [0.0, 1.0] * 100, range(200))

    assert decide(scores, RULE).base_would_pass is True
    assert decide(scores, GateRule(0.1, 0.9)).status is Status.PASS
    assert decide(scores, GateRule(0.1, 0.9)).base_would_pass is False


def test_a_base_that_fails_leaves_the_pass() -> None:
    decision = decide(_yes_no(300, 0, 2, base_right=100), RULE)

    assert (decision.status, decision.base_would_pass) == (Status.PASS, False)
    assert decide(_yes_no(300, 0, 2), RULE).base_would_pass is None


def test_a_smaller_alpha_asks_for_more() -> None:
    assert decide(_yes_no(30, 0, 0), RULE).status is Status.PASS
    assert decide(_yes_no(30, 0, 0), dataclasses.replace(RULE, alpha=0.005)).status is Status.INCONCLUSIVE


def test_scores_that_are_no_scores_are_errors() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decide(GoldenScores([1.0, float("nan")], [1.0, 1.0], None, ["a", "b"]), RULE)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        decide(GoldenScores([1.0, 0.5], [1.0, 1.5], None, ["a", "b"]), RULE)
    with pytest.raises(ValueError, match="cluster id a golden row"):
        decide(GoldenScores([1.0], [1.0, 0.5], None, ["a", "b"]), RULE)
    with pytest.raises(ValueError, match="no cluster id"):
        decide(GoldenScores([1.0, 0.0], [1.0, 0.5], None, ["a", None]), RULE)  # type: ignore[list-item]


@pytest.mark.parametrize("rule", [GateRule(-0.1), GateRule(0.1, 1.5), GateRule(0.1, alpha=0.0), GateRule(0.1, alpha=5)])
def test_a_rule_off_the_scale_is_an_error(rule: GateRule) -> None:
    with pytest.raises(ValueError, match="seen"):
        decide(_yes_no(30, 0, 0), rule)


@pytest.mark.parametrize(
    ("slices", "status"),
    [
        ({"slice a": "pass", "slice b": "pass"}, Status.PASS),
        ({"slice a": "pass", "slice b": "open"}, Status.INCONCLUSIVE),
        ({"slice a": "fail", "slice b": "open"}, Status.FAIL),
    ],
)
def test_all_slices_must_pass(slices: dict[str, str], status: Status) -> None:
    made: dict[str, Decision] = {
        "pass": decide(_yes_no(300, 2, 3), RULE),
        "open": decide(_yes_no(10, 0, 0), RULE),
        "fail": decide(_yes_no(300, 0, 90), RULE),
    }

    overall = combine({name: made[kind] for name, kind in slices.items()})

    assert (overall.status, overall.alpha, overall.difference) == (status, 0.05, None)
    assert overall.n == sum(made[kind].n for kind in slices.values())
    assert ("slice a" in overall.reason) == (status is Status.FAIL)


def test_no_slices_are_no_pass() -> None:
    with pytest.raises(ValueError, match="no slices"):
        combine({})
