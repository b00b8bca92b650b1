"""Bounds for the difference of paired proportions that miss the truth in at most alpha of samples, whatever the truth.

Tango's bound is a normal approximation and counts are discrete: in some samples sizes it misses more often than it
says. Here it is lowered just as far as it takes: to the smallest difference under which a sample that speaks as much
for the student as the seen one still has a chance above alpha, at the worst rate of disagreement. Samples are put in
order by Tango's bound. Sources: Buehler, "Confidence intervals for the product of two binomial parameters", JASA 52
(1957); Lloyd & Moldovan, "Exact one-sided confidence limits for the difference between two correlated proportions",
Statistics in Medicine 26 (2007).
"""

from functools import cache, lru_cache
from math import ceil, pi, sqrt

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import bdtr, gammaln, ndtri, xlog1py, xlogy

from distill_dagster.evaluation.proportions import score_variance, tango_bounds
from distill_dagster.evaluation.statistics import Floats

_TIE = 1e-9
_PRECISION = 1e-6
_POINTS_PER_ROOT_ROW = 8
_WINDOW_PER_ROOT_ROW = 8
_NEGLIGIBLE = 1e-14
_LEAST_CHANCE = 1e-300

Counts = npt.NDArray[np.int64]


def exact_bounds(b: int, c: int, n: int, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided bound of student - teacher, each at level `alpha` and never inside Tango's.

    Args:
        b: rows only the student got right.
        c: rows only the teacher got right.
        n: rows.
        alpha: of each bound, in (0, 0.5).

    Raises:
        ValueError: the counts are not those of n rows, or alpha is not in (0, 0.5).
    """
    return _lower(b, c, n, alpha), -_lower(c, b, n, alpha)


@lru_cache(maxsize=4096)
def _lower(b: int, c: int, n: int, alpha: float) -> float:
    """The smaller of Tango's lower bound and Buehler's; kept, since simulations meet the same counts often."""
    tango = tango_bounds(b, c, n, alpha)[0]
    if tango <= -1:
        return -1.0
    most_lost = _most_lost(tango, n, -float(ndtri(alpha)))

    @cache  # the search asks for its ends again
    def excess(difference: float) -> float:  # on the normal scale, where it is nearly a straight line
        return float(ndtri(max(_largest_chance(most_lost, n, difference), _LEAST_CHANCE)) - ndtri(alpha))

    if excess(tango) <= 0:
        return tango
    near = max(tango - 2 / n, -1.0)
    return float(brentq(excess, near if excess(near) < 0 else -1.0, tango, xtol=_PRECISION))


def _most_lost(bound: float, n: int, z: float) -> Counts:
    """For 0…n rows that only the student got right, shape (n + 1,): how many it may lose and Tango's bound still be
    `bound` or above; -1 for none. Found by bisection, since the score falls with every loss."""
    won = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - won
    while (low < high).any():
        lost = (low + high + 1) // 2
        reach = z * np.sqrt(score_variance(won, lost, n, bound) / n)
        kept = (won - lost) / n - bound - reach >= -_TIE
        low, high = np.where(kept & (low < high), lost, low), np.where(kept, high, np.minimum(high, lost - 1))
    return low


def _largest_chance(most_lost: Counts, n: int, difference: float) -> float:
    """Chance of a sample within `most_lost` under `difference`, at the rate of disagreement where it is largest.

    Searched over rates of rows only the student gets right that lie half a standard error apart or closer.
    """
    least, most = max(0.0, difference), (1 + difference) / 2
    points = np.linspace(0, pi / 2, ceil(_POINTS_PER_ROOT_ROW * sqrt(n)) + 1)
    win_rates: Floats = (least + (most - least) * np.sin(points) ** 2)[:, None]
    width = min(n + 1, ceil(_WINDOW_PER_ROOT_ROW * sqrt(n)))
    first = np.clip((n * win_rates - width / 2).astype(np.int64), 0, n + 1 - width)
    won = first + np.arange(width)
    chances = _binomial(won, n, win_rates)
    lost = np.minimum(most_lost[won], n - won)
    loss_rates = np.clip((win_rates - difference) / np.maximum(1 - win_rates, _NEGLIGIBLE), 0, 1)
    seen = (chances > _NEGLIGIBLE) & (lost >= 0)
    within = np.zeros_like(chances)
    within[seen] = bdtr(lost[seen], (n - won)[seen], np.broadcast_to(loss_rates, seen.shape)[seen])
    return float((chances * within).sum(axis=1).max())


def _binomial(k: Counts, n: int, p: Floats) -> Floats:
    log_ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    chances: Floats = np.exp(log_ways + xlogy(k, p) + xlog1py(n - k, -p))
    return chances
