"""How small a difference a number of rows can show, and how many rows a verdict takes.

Source: Miller, "Adding Error Bars to Evals" (2024), section 5; normal quantiles, since n is large where it matters.
"""

from math import floor, log, sqrt

from scipy.special import ndtri

_LARGEST_ALPHA = 0.1


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


def rows_to_decide(distance: float, variance: float, unseen: float, alpha: float) -> int | None:
    """About how many rows put the one-sided bound of a mean on the mean's side of a line, if nothing else changed.

    A bound that holds for bounded values counts one group it has not seen, at the far end of the scale, with a
    standard exponential weight against one for each row. With z and L the quantiles of the normal and the exponential
    distribution at `alpha`, N rows suffice where N·|distance| exceeds unseen + √(z²·N·variance + (L - 1)²·unseen²);
    without any variance that is N·|distance| > L·unseen, the rule of three.

    Args:
        distance: from the line to the observed mean.
        variance: of one row, effective where rows are clustered.
        unseen: how far the unseen group moves the sum of all rows; 0 for a bound that counts none.
        alpha: level of the one-sided bound.

    Returns:
        None where the mean sits on the line.

    Raises:
        ValueError: alpha is not in (0, 0.1], or the variance is negative.
    """
    _check(alpha, variance)
    if alpha > _LARGEST_ALPHA:
        raise ValueError(f"the alpha of a bound is at most {_LARGEST_ALPHA} (seen: {alpha})")
    if abs(distance) < 1e-9:
        return None
    normal, exponential = float(ndtri(alpha)), -log(alpha)
    linear = 2 * unseen * abs(distance) + normal**2 * variance
    constant = ((exponential - 1) ** 2 - 1) * unseen**2
    rows = (linear + sqrt(linear**2 + 4 * distance**2 * constant)) / (2 * distance**2)
    return floor(rows) + 1


def _check(alpha: float, variance: float | None) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1) (seen: {alpha})")
    if variance is not None and not variance >= 0:
        raise ValueError(f"a variance is 0 or more (seen: {variance})")
