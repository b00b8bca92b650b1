"""What many comparisons, candidates and looks do to error rates."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given: the chance of any false claim stays at alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie in [0, 1] (seen: {list(p_values)})")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def alpha_of_look(alpha: float, look: int, candidates: int) -> float:
    """The share of alpha that one candidate may spend at one look, counted from 1: alpha / candidates / 2**look.

    Over all looks and candidates the shares sum to at most alpha, so by Bonferroni's inequality so does the chance
    of any false pass, however often golden rows are added.

    Raises:
        ValueError: alpha is not in (0, 1), or look or candidates is below 1.
    """
    if not 0 < alpha < 1 or look < 1 or candidates < 1:
        raise ValueError(f"alpha lies in (0, 1), look and candidates from 1 (seen: {alpha}, {look}, {candidates})")
    return alpha / candidates * 0.5**look
