"""How small a difference a number of rows can show, and how many rows a verdict takes.

Source: Miller, "Adding Error Bars to Evals" (2024), section 5; normal quantiles, since n is large where it matters.
"""

from math import floor, sqrt

from scipy.special import ndtri


def minimum_detectable_effect(
    variance_of_paired_difference: float | None, n: int, alpha: float, power: float = 0.8
) -> float | None:
    """The true difference that a two-sided test at `alpha` finds with probability `power`.

    Args:
        variance_of_paired_difference: of one row, in squared units of the metric; where rows are clustered, the
            effective one (n times the squared cluster-robust standard error).
        n: rows.
        alpha: level of the two-sided test.
        power: chance of finding the difference.

    Returns:
        In units of the metric; None where n < 2 or the variance is unknown or 0, which is no evidence.

    Raises:
        ValueError: alpha or power is not in (0, 1), or the variance is negative.
    """
    _check(alpha, variance_of_paired_difference)
    if not 0 < power < 1:
        raise ValueError(f"power lies in (0, 1) (seen: {power})")
    if n < 2 or not variance_of_paired_difference:
        return None
    return float(ndtri(1 - alpha / 2) + ndtri(power)) * sqrt(variance_of_paired_difference / n)


def rows_to_decide(difference: float, variance: float | None, margin: float, alpha: float) -> int | None:
    """Rows in all at which the one-sided bound of `difference` would clear -margin, if nothing else changed.

    The bound is difference ± z·√(variance/rows), solved for rows: a pass where the difference is above -margin, a
    fail where it is below.

    Args:
        difference: observed, student - teacher.
        variance: of one row, effective where rows are clustered.
        margin: the loss that is allowed; -margin is the line to clear.
        alpha: level of the one-sided bound.

    Returns:
        None where the difference sits on the line or the variance is unknown or 0.

    Raises:
        ValueError: alpha is not in (0, 1), or the variance is negative.
    """
    _check(alpha, variance)
    distance = difference + margin
    if not variance or abs(distance) < 1e-9:
        return None
    return floor((float(ndtri(1 - alpha)) / distance) ** 2 * variance) + 1


def _check(alpha: float, variance: float | None) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1) (seen: {alpha})")
    if variance is not None and not variance >= 0:
        raise ValueError(f"a variance is 0 or more (seen: {variance})")
