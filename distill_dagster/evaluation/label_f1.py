"""Macro F1 over labels: a measure of a whole test split, with an interval that leaves out one group at a time.

A label's F1 is 2·TP / (2·TP + FP + FN); macro F1 is its mean over the labels that occur among the targets. It is no
mean over rows, so its error comes from the delete-one-group jackknife (Efron & Tibshirani, "An Introduction to the
Bootstrap" (1993), chapter 11), with one degree of freedom less than groups. A label that no row is left of when a group
is left out has no F1 there, and the mean is over the others.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.statistics import Estimate, Floats, Method

MAX_LABELS = 1000


def macro_f1(targets: Sequence[str], predicted: Sequence[str], clusters: Sequence[str], confidence: float) -> Estimate:
    """Macro F1 of one system.

    Args:
        targets: the right label of each row.
        predicted: the label given; what is no target of any row, such as an empty text, is wrong for its own only.
        clusters: the group of each row.

    Raises:
        EvaluationError: there are more than MAX_LABELS labels, so the targets are texts.
    """
    return _estimate(targets, [predicted], clusters, confidence)


def macro_f1_difference(
    targets: Sequence[str], a: Sequence[str], b: Sequence[str], clusters: Sequence[str], confidence: float
) -> Estimate:
    """Macro F1 of `a` less that of `b` on the same rows, groups left out of both together."""
    return _estimate(targets, [a, b], clusters, confidence)


def _estimate(
    targets: Sequence[str], systems: Sequence[Sequence[str]], clusters: Sequence[str], confidence: float
) -> Estimate:
    """The first system's, less the second's where there are two."""
    groups = {cluster: index for index, cluster in enumerate(sorted(set(clusters)))}
    n_groups = len(groups)

    def result(value: float | None, reach: float | None, method: Method) -> Estimate:
        low, high = (None, None) if value is None or reach is None else (value - reach, value + reach)
        return Estimate(value, low, high, len(targets), n_groups, method, confidence)

    if not targets:
        return result(None, None, Method.NO_DATA)
    rows = np.array([groups[cluster] for cluster in clusters])
    counts = [_counts(targets, predicted, rows, n_groups) for predicted in systems]
    value = _difference([one.sum(axis=0, keepdims=True) for one in counts])[0]
    if n_groups < 2:
        return result(float(value), None, Method.TOO_FEW_CLUSTERS)
    left_out = _difference([one.sum(axis=0, keepdims=True) - one for one in counts])  # one value a group
    spread = left_out - left_out.mean()
    if np.allclose(spread, 0, rtol=0, atol=1e-12):
        return result(float(value), None, Method.NO_VARIANCE)
    error = float(np.sqrt((n_groups - 1) / n_groups * np.square(spread).sum()))
    return result(float(value), float(stdtrit(n_groups - 1, (1 + confidence) / 2)) * error, Method.CLUSTER_T)


def _counts(targets: Sequence[str], predicted: Sequence[str], rows: npt.NDArray[np.int64], n_groups: int) -> Floats:
    """2·TP and 2·TP + FP + FN of each group and label, shape (groups, labels, 2); a label is a target of some row."""
    labels = {label: index for index, label in enumerate(sorted(set(targets)))}
    if len(labels) > MAX_LABELS:
        raise EvaluationError(
            f"evaluation.metrics: macro_f1: {len(labels):,} different labels among {len(targets):,} rows; "
            "it is for classification: remove it, or declare teacher.labels"
        )
    counts = np.zeros((n_groups, len(labels), 2))
    for group, target, said in zip(rows, targets, predicted, strict=True):
        counts[group, labels[target], 1] += 1  # a target is half of 2·TP, or a FN
        if said in labels:
            counts[group, labels[said], 1] += 1  # so is what is said, or a FP
            counts[group, labels[said], 0] += 2 * (said == target)
    return counts


def _difference(counts: Sequence[Floats]) -> Floats:
    """Macro F1 of the first counts, shape (n, labels, 2), less that of the second; shape (n,)."""
    scores = [_macro(one) for one in counts]
    return scores[0] - scores[1] if len(scores) > 1 else scores[0]


def _macro(counts: Floats) -> Floats:
    top, bottom = counts[..., 0], counts[..., 1]
    known = bottom > 0
    f1 = np.divide(top, bottom, out=np.zeros_like(top), where=known)
    macro: Floats = f1.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return macro
