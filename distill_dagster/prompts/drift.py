"""Whether prompts have drifted: their lengths and topics, against the version before.

Two distributions p (before) and q (now) over the same cells are compared by the population stability index
Σ (q - p) ln(q / p), the symmetrised Kullback-Leibler divergence. Usage calls a shift major from 0.25 on (N. Siddiqi,
Credit Risk Scorecards, Wiley 2006, ch. 13). Without any drift n and m rows give an index distributed as
(1/n + 1/m) χ² with one degree of freedom less than cells (B. Yurdakul, Statistical Properties of Population Stability
Index, Western Michigan University 2018); what chance gives that way is no drift, however large. Words of one prompt go
together, so their χ² is scaled by the mean design effect (Rao and Scott, JASA 76, 1981).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_dagster.project import Distillation
from distill_dagster.prompts.profile import Profile, profiles

MAJOR = 0.25
ALPHA = 0.001
_LENGTH_CELLS = 10
_TOPIC_CELLS = 20
_SMOOTHING = 0.5


@dataclass(frozen=True)
class Change:
    """How far two distributions are apart.

    Attributes:
        index: population stability index.
        chance: what it stays below without drift, but for a probability of `ALPHA` over all comparisons.
    """

    index: float
    chance: float

    @property
    def has_drifted(self) -> bool:
        """Whether the shift is major, and no accident of few rows."""
        return self.index > max(MAJOR, self.chance)


@dataclass(frozen=True)
class Comparison:
    """Some prompts now, and before.

    Attributes:
        name: the partition; None for all prompts.
        rows_before, rows_now: number of prompts.
        lengths, words: how far they are apart; None where there is nothing to compare.
    """

    name: str | None
    rows_before: int
    rows_now: int
    lengths: Change | None
    words: Change | None


@dataclass(frozen=True)
class Drift:
    """The prompts, and what they were before the last step that changed any.

    Attributes:
        before, now: counts of all prompts.
        whole: all prompts compared.
        partitions: those that changed, compared one by one; none where there is one partition only.
        rows: prompts by partition, before and now.
        shares: how far the partitions' shares of the prompts are apart.
    """

    before: Profile
    now: Profile
    whole: Comparison
    partitions: tuple[Comparison, ...]
    rows: Mapping[str, tuple[int, int]]
    shares: Change | None


def drift(distillation: Distillation) -> Drift | None:
    """Compares the current prompts with the version before; None where there was none.

    Reads each partition's small profile, and no prompts.
    """
    stages = {
        name: (stored.changed_at, stored.before.rows if stored.before else 0, stored.now.rows)
        for name, stored in profiles(distillation)
    }
    last = max((changed_at for changed_at, _, _ in stages.values()), default="")
    counts = {name: (then if at == last else rows, rows) for name, (at, then, rows) in stages.items()}
    rows = {name: both for name, both in counts.items() if any(both)}
    if not any(before for before, _ in rows.values()):
        return None
    alpha = ALPHA / (1 + sum(at == last and then > 0 and now > 0 for at, then, now in stages.values()))
    before, now, partitions = Profile(), Profile(), []
    for name, stored in profiles(distillation):
        is_changed = stored.changed_at == last
        earlier = (stored.before or Profile()) if is_changed else stored.now
        before, now = before + earlier, now + stored.now
        if is_changed and earlier.rows and stored.now.rows:
            partitions.append(_compared(name, earlier, stored.now, alpha))
    return Drift(
        before,
        now,
        _compared(None, before, now, alpha),
        tuple(partitions) if len(rows) > 1 else (),
        rows,
        shares_change(rows, alpha),
    )


def lengths_change(before: Profile, now: Profile, alpha: float) -> Change | None:
    """How far lengths are apart, over about ten cells with as many prompts each; None without rows on a side."""
    cells = length_cells(before, now)
    return _change(
        [sum(before.lengths[bin_] for bin_ in cell) for cell in cells],
        [sum(now.lengths[bin_] for bin_ in cell) for cell in cells],
        alpha,
    )


def words_change(before: Profile, now: Profile, alpha: float) -> Change | None:
    """How far the words are apart that prompts are made of, by hashed buckets; None without words on a side."""
    if not before.read or not now.read:
        return None
    both = before + now
    means = [total / both.read for total in both.words]
    variances = [square / both.read - mean**2 for square, mean in zip(both.squares, means, strict=True)]
    terms = [variance / mean for variance, mean in zip(variances, means, strict=True) if mean > 0]
    effect = sum(terms) / (len(terms) - 1) if len(terms) > 1 else 1.0
    return _change(before.words, now.words, alpha, (before.read, now.read), effect)


def shares_change(rows: Mapping[str, tuple[int, int]], alpha: float) -> Change | None:
    """How far the partitions' shares are apart; the smallest count as one."""
    largest = sorted(rows.values(), key=lambda pair: -sum(pair))
    shown, rest = largest[: _TOPIC_CELLS - 1], largest[_TOPIC_CELLS - 1 :]
    cells = [*shown, (sum(before for before, _ in rest), sum(now for _, now in rest))] if rest else shown
    return _change([before for before, _ in cells], [now for _, now in cells], alpha)


def length_cells(before: Profile, now: Profile) -> list[range]:
    """Neighbouring length bins put together until each cell has about a tenth of the prompts of both."""
    both = before + now
    least = both.rows / _LENGTH_CELLS
    cells, start, count = [], 0, 0
    for bin_, prompts in enumerate(both.lengths):
        count += prompts
        if count >= least and count:
            cells.append(range(start, bin_ + 1))
            start, count = bin_ + 1, 0
    if count and cells:
        cells[-1] = range(cells[-1].start, len(both.lengths))
    return cells


def _compared(name: str | None, before: Profile, now: Profile, alpha: float) -> Comparison:
    return Comparison(name, before.rows, now.rows, lengths_change(before, now, alpha), words_change(before, now, alpha))


def _change(
    before: Sequence[float],
    now: Sequence[float],
    alpha: float,
    rows: tuple[int, int] | None = None,
    effect: float = 1.0,
) -> Change | None:
    from scipy.special import chdtri  # only here: loading definitions needs no SciPy

    n, m = rows or (int(sum(before)), int(sum(now)))
    if not n or not m:
        return None
    pairs = [(earlier, later) for earlier, later in zip(before, now, strict=True) if earlier or later]
    padding = _SMOOTHING * len(pairs)
    index = 0.0
    for earlier, later in pairs:
        p, q = (earlier + _SMOOTHING) / (n + padding), (later + _SMOOTHING) / (m + padding)
        index += (q - p) * math.log(q / p)
    if len(pairs) < 2:
        return Change(index, 0.0)
    return Change(index, (1 / n + 1 / m) * effect * float(chdtri(len(pairs) - 1, alpha)))
