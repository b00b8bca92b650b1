"""Macro F1 by hand, and its interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.label_f1 import MAX_LABELS, macro_f1, macro_f1_difference
from distill_dagster.evaluation.statistics import Method

labels = st.sampled_from(["a", "b", "c", ""])


def groups(count: int) -> list[str]:
    return [f"g{index}" for index in range(count)]


def test_each_label_weighs_the_same() -> None:
    targets = ["a", "a", "a", "a", "b", "b"]
    said = ["a", "a", "a", "b", "b", ""]

    estimate = macro_f1(targets, said, groups(6), 0.95)

    # a: 2·3 / (2·3 + 0 + 1); b: 2·1 / (2·1 + 1 + 1)
    assert estimate.value == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert (estimate.n, estimate.n_clusters, estimate.method) == (6, 6, Method.CLUSTER_T)


@given(st.lists(st.tuples(st.sampled_from("abc"), labels, st.sampled_from("xyz")), min_size=1, max_size=20))
def test_it_is_the_mean_of_f1_by_definition_and_within_0_and_1(rows: list[tuple[str, str, str]]) -> None:
    targets, said, clusters = (list(column) for column in zip(*rows, strict=True))
    scores = []
    for label in sorted(set(targets)):
        hits = sum(t == s == label for t, s in zip(targets, said, strict=True))
        precision = hits / max(said.count(label), 1)
        recall = hits / targets.count(label)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)

    estimate = macro_f1(targets, said, clusters, 0.95)

    assert estimate.value == pytest.approx(np.mean(scores))
    assert 0 <= (estimate.value or 0) <= 1
    assert macro_f1(targets, targets, clusters, 0.95).value == 1.0


def test_the_error_is_that_of_leaving_out_one_group() -> None:
    targets, said = ["a", "b", "a", "b"], ["a", "b", "b", "b"]
    clusters = ["g0", "g0", "g1", "g2"]
    left_out = [
        macro_f1(
            [t for t, g in zip(targets, clusters, strict=True) if g != out],
            [s for s, g in zip(said, clusters, strict=True) if g != out],
            [g for g in clusters if g != out],
            0.95,
        ).value
        for out in ("g0", "g1", "g2")
    ]
    error = np.sqrt(2 / 3 * np.square(np.array(left_out) - np.mean(left_out)).sum())

    estimate = macro_f1(targets, said, clusters, 0.95)

    assert estimate.value is not None
    assert estimate.high == pytest.approx(estimate.value + 4.302653 * error)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        targets = rng.choice(["a", "b"], size=80, p=[0.7, 0.3])
        right = rng.random(80) < 0.8
        said = np.where(right, targets, np.where(targets == "a", "b", "a"))
        estimate = macro_f1(targets.tolist(), said.tolist(), groups(80), 0.95)
        assert estimate.interval is not None
        # in the long run a: TP .56, FP .06, FN .14; b: TP .24, FP .14, FN .06
        truth = (2 * 0.56 / (2 * 0.56 + 0.20) + 2 * 0.24 / (2 * 0.24 + 0.20)) / 2
        covered += estimate.interval[0] <= truth <= estimate.interval[1]

    assert 0.9 <= covered / 200 <= 0.99


def test_a_difference_is_of_the_same_rows() -> None:
    targets = ["a", "b"] * 10
    wrong = ["b", "a"] * 3 + targets[6:]
    difference = macro_f1_difference(targets, targets, wrong, groups(20), 0.95)

    single = macro_f1(targets, wrong, groups(20), 0.95).value
    assert single is not None
    assert difference.value == pytest.approx(1 - single)
    assert difference.low is not None
    assert difference.low > 0
    assert macro_f1_difference(targets, wrong, wrong, groups(20), 0.95).method == Method.NO_VARIANCE


def test_where_nothing_can_be_said_there_is_no_interval() -> None:
    assert macro_f1([], [], [], 0.95).method == Method.NO_DATA
    assert macro_f1(["a"], ["a"], ["g"], 0.95).method == Method.TOO_FEW_CLUSTERS
    assert macro_f1(["a", "b"], ["a", "b"], ["g", "h"], 0.95).method == Method.NO_VARIANCE


def test_texts_are_no_labels() -> None:
    texts = [f"text {index}" for index in range(MAX_LABELS + 1)]
    with pytest.raises(EvaluationError, match=r"macro_f1: 1,001 different labels among 1,001 rows"):
        macro_f1(texts, texts, groups(len(texts)), 0.95)
