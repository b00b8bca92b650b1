"""Estimates against scipy, and the coverage of their intervals by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distill_dagster.evaluation import statistics
from distill_dagster.evaluation.statistics import (
    BOOTSTRAP_MIN_CLUSTERS,
    Estimate,
    Method,
    mean_estimate,
    paired_difference,
    paired_perplexity_difference,
    paired_ratio_difference,
    perplexity_estimate,
    ratio_estimate,
)


def test_with_a_row_a_cluster_below_50_it_is_students_t() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, 20)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)

    estimate = mean_estimate(values, range(20))

    assert estimate.method is Method.CLUSTER_T
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.interval == pytest.approx((expected.low, expected.high))


def test_from_50_clusters_on_it_is_the_bootstrap_with_expanded_percentiles() -> None:
    values = np.random.default_rng(1).exponential(1.0, 120)
    reach = stats.t.ppf(0.975, 119) * np.sqrt(120 / 119)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        confidence_level=1 - 2 * stats.norm.sf(reach),
        n_resamples=10_000,
        rng=np.random.default_rng(2),
    ).confidence_interval

    estimate = mean_estimate(values, range(120))

    assert estimate.method is Method.CLUSTER_BOOTSTRAP
    assert estimate.interval == pytest.approx((expected.low, expected.high), abs=0.01)


@pytest.mark.parametrize("clusters", [50, 200])
def test_the_bootstrap_reaches_as_far_as_t_where_values_are_normal(clusters: int) -> None:
    """Plain percentiles with 50 clusters would reach 0.966 of the way."""
    rng = np.random.default_rng(9)
    shares = []
    for _ in range(20):
        values = rng.normal(0, 1, clusters)
        low, high = mean_estimate(values, range(clusters)).interval or (0.0, 0.0)
        t = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        shares.append((high - low) / (t.high - t.low))

    assert np.mean(shares) == pytest.approx(1, abs=0.01)


def test_the_paired_difference_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.5, 0.2, 30), rng.normal(0.4, 0.2, 30)
    expected = stats.ttest_rel(a, b).confidence_interval(0.9)

    assert paired_difference(a, b, range(30), confidence=0.9).interval == pytest.approx((expected.low, expected.high))


def test_equal_rows_in_a_cluster_count_once() -> None:
    means = np.random.default_rng(4).normal(0, 1, 12)
    single = mean_estimate(means, range(12))

    repeated = mean_estimate(np.repeat(means, 5), np.repeat(np.arange(12), 5))

    assert (repeated.n, repeated.n_clusters) == (60, 12)
    assert repeated.interval == pytest.approx(single.interval)


def test_a_ratio_weights_rows_by_their_denominators() -> None:
    estimate = ratio_estimate([1, 30, 5], [10, 40, 50], ["a", "b", "c"])

    assert estimate.value == pytest.approx(36 / 100)
    assert estimate.value != pytest.approx(np.mean([0.1, 0.75, 0.1]))


@pytest.mark.parametrize("clusters", [30, 80])
def test_a_mean_is_a_ratio_over_ones_and_a_difference_of_means_a_difference_of_ratios(clusters: int) -> None:
    rng = np.random.default_rng(5)
    ids = rng.integers(0, clusters, 200)
    a, b, ones = rng.random(200), rng.random(200), np.ones(200)

    assert ratio_estimate(a, ones, ids) == mean_estimate(a, ids)
    difference, ratios = paired_difference(a, b, ids), paired_ratio_difference(a, ones, b, ones, ids)
    assert ratios.value == pytest.approx(difference.value)
    assert ratios.interval == pytest.approx(difference.interval)


def test_the_linearised_ratio_agrees_with_its_bootstrap() -> None:
    rng = np.random.default_rng(6)
    tokens = rng.integers(5, 60, 49).astype(float)
    kl = tokens * rng.normal(1.0, 0.3, 49)
    by_bootstrap = stats.bootstrap(
        (kl, tokens),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval

    assert ratio_estimate(kl, tokens, range(49)).interval == pytest.approx(
        (by_bootstrap.low, by_bootstrap.high), abs=0.02
    )


@pytest.mark.parametrize(
    ("values", "clusters", "value", "method"),
    [
        ([], [], None, Method.NO_DATA),
        ([0.7], ["a"], 0.7, Method.TOO_FEW_CLUSTERS),
        ([0.6, 0.8], ["a", "a"], 0.7, Method.TOO_FEW_CLUSTERS),
        ([0.0, 0.0, 0.0], ["a", "b", "c"], 0.0, Method.NO_VARIANCE),
        ([0.5, float("inf")], ["a", "b"], None, Method.NOT_FINITE),
        ([0.5, float("nan")], ["a", "b"], None, Method.NOT_FINITE),
    ],
)
def test_what_is_undefined_has_no_interval_and_says_why(
    values: list[float], clusters: list[str], value: float | None, method: Method
) -> None:
    estimate = mean_estimate(values, clusters)

    assert estimate == Estimate(pytest.approx(value), None, None, len(values), len(set(clusters)), method)


def test_no_tokens_at_all_is_undefined() -> None:
    assert ratio_estimate([0, 0], [0, 0], ["a", "b"]).value is None


@pytest.mark.parametrize("clusters", [30, 80])
def test_a_perplexity_is_the_exponential_of_a_mean_with_its_interval(clusters: int) -> None:
    rng = np.random.default_rng(12)
    tokens = rng.integers(5, 40, clusters).astype(float)
    nats = tokens * rng.gamma(8, 0.15, clusters)
    mean = ratio_estimate(nats, tokens, range(clusters))

    found = perplexity_estimate(nats, tokens, range(clusters))

    assert found.value == pytest.approx(np.exp(nats.sum() / tokens.sum()))
    assert found.interval == pytest.approx((np.exp(mean.low), np.exp(mean.high)))
    assert (found.method, found.n) == (mean.method, mean.n)


def test_a_difference_of_perplexities_has_the_interval_of_both_ends_moved_a_little() -> None:
    rng = np.random.default_rng(13)
    tokens = rng.integers(5, 40, 40).astype(float)
    a, b = (tokens * rng.gamma(8, scale, 40) for scale in (0.1, 0.2))

    def difference(kept: np.ndarray) -> float:
        return np.exp(a[kept].sum() / tokens[kept].sum()) - np.exp(b[kept].sum() / tokens[kept].sum())

    estimate = paired_perplexity_difference(a, tokens, b, tokens, range(40))

    left_out = np.array([difference(np.arange(40) != one) for one in range(40)])
    jackknife = np.sqrt(39 / 40 * np.square(left_out - left_out.mean()).sum())
    assert estimate.value == pytest.approx(difference(np.arange(40)))
    assert estimate.method is Method.CLUSTER_T
    assert estimate.high - estimate.value == pytest.approx(stats.t(39).ppf(0.975) * jackknife, rel=0.05)


def test_missing_cluster_ids_and_unequal_lengths_are_errors() -> None:
    with pytest.raises(ValueError, match="no cluster id"):
        mean_estimate([1.0, 2.0], ["a", None])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same rows"):
        paired_difference([1.0], [1.0, 2.0], ["a", "b"])
    with pytest.raises(ValueError, match="one cluster id a row"):
        mean_estimate([1.0, 2.0], ["a"])


@given(st.randoms(use_true_random=False), st.integers(55, 90))
def test_the_order_of_rows_changes_nothing(random: object, n: int) -> None:
    rng = np.random.default_rng(n)
    values, ids = rng.integers(0, 8, n) / 8, np.array([f"g{i}" for i in range(n)])
    order = list(range(n))
    random.shuffle(order)  # type: ignore[attr-defined]

    assert mean_estimate(values[order], ids[order]) == mean_estimate(values, ids)


@pytest.mark.parametrize(
    ("clusters", "trials"), [(12, 4_000), (20, 4_000), (BOOTSTRAP_MIN_CLUSTERS, 4_000), (200, 1_000)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    clusters: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a cluster share most of their deviation: intervals over rows would cover far less than 95 %.

    Student's t over the clusters' means covers 95 % exactly, so what it happened to cover of these draws tells luck
    apart from what is wrong: the rest errs by the draws on which the two disagree.
    """
    monkeypatch.setattr(statistics, "BOOTSTRAP_RESAMPLES", 1_000)
    rng = np.random.default_rng(8)
    ids = np.repeat(np.arange(clusters), 4)
    reach = stats.t.ppf(0.975, clusters - 1) / np.sqrt(clusters)
    more = []
    for _ in range(trials):
        values = 0.3 + np.repeat(rng.normal(0, 0.2, clusters), 4) + rng.normal(0, 0.05, 4 * clusters)
        low, high = mean_estimate(values, ids).interval or (1.0, 0.0)
        means = values.reshape(clusters, 4).mean(axis=1)
        by_t = abs(means.mean() - 0.3) <= reach * means.std(ddof=1)
        more.append(float(low <= 0.3 <= high) - by_t)

    assert abs(np.mean(more)) <= 3 * np.std(more) / np.sqrt(trials)
