"""Yes/no outcomes: bounds for the difference of paired proportions, for one proportion, and McNemar's exact test.

b counts the rows that only the student got right, c those that only the teacher got right; the difference is
student - teacher. Sources: Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17 (1998); Clopper & Pearson, Biometrika 26 (1934); McNemar,
Psychometrika 12 (1947).
"""

from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtri

from distill_dagster.evaluation.statistics import Floats

_STEP = 1e-10


def score_variance(b: int | npt.NDArray[np.int64], c: int | npt.NDArray[np.int64], n: int, difference: float) -> Floats:
    """Variance of one row's student - teacher if `difference` were the truth (Tango 1998, eq. 4, 5).

    Args:
        b: rows only the student got right; one number or any shape that fits c's.
        c: rows only the teacher got right.
        n: rows.
        difference: the true difference that is assumed, in [-1, 1].
    """
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    only_teacher = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0)) - linear) / (4 * n)
    return np.maximum(2 * only_teacher + difference * (1 - difference), 0.0)


def tango_bounds(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided score bound of student - teacher, each at level `alpha`.

    Defined without any disagreement (b = c = 0), where only n speaks. With c = 0 or b = 0 the far bound is Wilson's.
    The level is approximate: by enumeration, where the student only loses and the true loss is 0.1, a lower bound at
    0.05 lies above the truth in up to 7.2 % of samples (n = 25). `exact_bounds` mends that.

    Raises:
        ValueError: the counts are not those of n rows, or alpha is not in (0, 0.5).
    """
    check_counts(b, c, n)
    if not 0 < alpha < 0.5:
        raise ValueError(f"the alpha of one bound lies between 0 and 0.5 (seen: {alpha})")
    return _lower(b, c, n, -float(ndtri(alpha))), -_lower(c, b, n, -float(ndtri(alpha)))


def proportion_bounds(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Clopper and Pearson's lower and upper bound of one proportion, each at level `alpha`."""
    low = float(betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - alpha)) if successes < n else 1.0
    return low, high


def mcnemar_exact(b: int, c: int) -> float | None:
    """Two-sided exact binomial p-value of equal proportions; None where no row disagrees."""
    from scipy.stats import binomtest  # slow to import, and reports are read wherever assets are loaded

    return None if b + c == 0 else float(binomtest(b, b + c, 0.5).pvalue)


def check_counts(b: int, c: int, n: int) -> None:
    """Raises ValueError where b and c cannot be counts among n rows."""
    if n < 1 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"discordant rows must be among the n rows (seen: b={b}, c={c}, n={n})")


def _lower(b: int, c: int, n: int, z: float) -> float:
    """The difference at which the score statistic is z."""
    observed = (b - c) / n

    def excess(difference: float) -> float:
        return observed - difference - z * sqrt(score_variance(b, c, n, difference) / n)

    end = observed - _STEP  # at the observed difference itself the variance may be 0, without a solution there
    return float(brentq(excess, -1.0, end, xtol=_STEP)) if end > -1 else -1.0
