"""Synthetic golden sets with a student of known loss, for measuring how often a rule's verdict on it is wrong.

Every student's true difference to its teacher is exactly -margin: the worst case, since a larger loss is passed less
often. Used by the tests and by `gate_error_rates.py`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from distill_dagster.evaluation.gate import GateRule, GoldenScores, Status, decide
from distill_dagster.evaluation.multiplicity import alpha_of_look
from distill_dagster.evaluation.statistics import Floats, mean_estimate

ALPHA = 0.05
SEED = 17

Pairs = tuple[Floats, Floats]  # student, teacher; each of shape (n,)
Population = Callable[[np.random.Generator, int], Pairs]
Rule = Callable[[GoldenScores, float, float], Status]  # scores, margin, alpha of each bound


def yes_no(margin: float, won: float = 0.0) -> Population:
    """The teacher alone is right at a rate of won + margin, the student alone at `won`; else both are."""

    def draw(rng: np.random.Generator, n: int) -> Pairs:
        chance = rng.random(n)
        teacher_alone = (chance >= won) & (chance < 2 * won + margin)
        return 1.0 - teacher_alone, 1.0 * (chance >= won)

    return draw


def even(margin: float) -> Population:
    """Losses spread evenly and little: margin ± 0.2."""
    return lambda rng, n: (0.75 - margin + rng.uniform(-0.2, 0.2, n), np.full(n, 0.75))


def one_sided(margin: float) -> Population:
    """The student only loses, mostly little: losses from a beta distribution with a peak at 0."""
    return lambda rng, n: (1 - rng.beta(0.3, 0.3 * (1 - margin) / margin, n), np.ones(n))


def rare(margin: float) -> Population:
    """Nearly always the teacher's score ± 0.02, else 0.9 less."""

    def draw(rng: np.random.Generator, n: int) -> Pairs:
        lost = rng.random(n) < margin / 0.9
        return 0.95 - 0.9 * lost + rng.uniform(-0.02, 0.02, n), np.full(n, 0.95)

    return draw


def independent(loss: float) -> Population:
    """Student and teacher vary each on its own, so that one row's difference has a standard deviation of 0.3."""
    half = 0.3 * sqrt(3 / 2)
    return lambda rng, n: (
        0.5 - loss / 2 + rng.uniform(-half, half, n),
        0.5 + loss / 2 + rng.uniform(-half, half, n),
    )


@dataclass(frozen=True)
class Groups:
    """How rows hang together: sizes from `smallest` to `largest`, and how often a row repeats its group's pair."""

    count: int
    smallest: int = 1
    largest: int = 1
    shared: float = 0.9

    def draw(self, population: Population, rng: np.random.Generator) -> GoldenScores:
        """Golden rows of `count` groups; a row's own distribution is the population's, however much is shared."""
        sizes = rng.integers(self.smallest, self.largest + 1, self.count)
        clusters = np.repeat(np.arange(self.count), sizes)
        of_rows, of_groups = population(rng, len(clusters)), population(rng, self.count)
        shared = rng.random(len(clusters)) < self.shared
        student, teacher = (
            np.where(shared, group[clusters], row) for group, row in zip(of_groups, of_rows, strict=True)
        )
        return GoldenScores(student, teacher, None, clusters)


@dataclass(frozen=True)
class Scenario:
    """One way to be wrong.

    Attributes:
        margin: the loss that is allowed, and the student's.
        population: of pairs of scores.
        groups: of one look.
        looks: at most so many; each adds as many groups as the first had, while the verdict is inconclusive.
        candidates: students, of which the one with the best golden score is looked at.
    """

    name: str
    margin: float
    population: Population
    groups: Groups
    looks: int = 1
    candidates: int = 1
    experiments: int = 1_000


def monte_carlo_error(rate: float, experiments: int) -> float:
    """Standard error of a share of experiments whose true rate is `rate`."""
    return sqrt(rate * (1 - rate) / experiments)


def simulate(scenario: Scenario, rule: Rule, split_alpha: bool = True) -> dict[Status, float]:
    """Share of each verdict; alpha is whole for one look at one candidate, and where `split_alpha` is false."""
    rng = np.random.default_rng(SEED)
    verdicts = Counter(_last_verdict(scenario, rule, split_alpha, rng) for _ in range(scenario.experiments))
    return {status: verdicts[status] / scenario.experiments for status in Status}


def by_gate(scores: GoldenScores, margin: float, alpha: float) -> Status:
    """The gate's verdict."""
    return decide(scores, GateRule(margin, alpha=alpha)).status


def by_interval(scores: GoldenScores, margin: float, alpha: float) -> Status:
    """What the report's interval would say: cluster t below 50 groups, cluster bootstrap from there on."""
    differences = np.asarray(scores.student) - np.asarray(scores.teacher)
    estimate = mean_estimate(differences, scores.clusters, confidence=1 - 2 * alpha)
    low, high = estimate.interval or (estimate.value, estimate.value)
    if low is None or high is None:
        return Status.INCONCLUSIVE
    return Status.PASS if low > -margin else Status.FAIL if high < -margin else Status.INCONCLUSIVE


def _last_verdict(scenario: Scenario, rule: Rule, split_alpha: bool, rng: np.random.Generator) -> Status:
    drawn = [scenario.groups.draw(scenario.population, rng) for _ in range(scenario.candidates)]
    scores = max(drawn, key=lambda candidate: float(np.mean(candidate.student)))
    status = Status.INCONCLUSIVE
    for look in range(1, scenario.looks + 1):
        if look > 1:
            scores = _joined(scores, scenario.groups.draw(scenario.population, rng))
        several = scenario.looks > 1 or scenario.candidates > 1
        alpha = alpha_of_look(ALPHA, look, scenario.candidates) if several and split_alpha else ALPHA
        status = rule(scores, scenario.margin, alpha)
        if status is not Status.INCONCLUSIVE:
            break
    return status


def _joined(first: GoldenScores, second: GoldenScores) -> GoldenScores:
    clusters = np.asarray(first.clusters, dtype=np.int64)
    return GoldenScores(
        np.concatenate([first.student, second.student]),
        np.concatenate([first.teacher, second.teacher]),
        None,
        np.concatenate([clusters, np.asarray(second.clusters, dtype=np.int64) + clusters.max() + 1]),
    )


# Margins are such that a pass is possible: without a single loss it takes ln(alpha)/ln(1 - margin) groups.
_MARGIN_BY_ROWS = {10: 0.3, 20: 0.15, 25: 0.1, 50: 0.1, 300: 0.05}
_MARGIN_BY_GROUPS = {5: 0.5, 20: 0.2, 50: 0.1}

SCENARIOS = (
    *(
        Scenario(f"yes/no, only losses, {n} rows", margin, yes_no(margin), Groups(n), experiments=4_000)
        for n, margin in _MARGIN_BY_ROWS.items()
    ),
    *(
        Scenario(f"yes/no, wins too, {n} rows", margin, yes_no(margin, margin / 5), Groups(n))
        for n, margin in _MARGIN_BY_ROWS.items()
    ),
    *(
        Scenario(f"score, {name} losses, {n} rows", margin, population(margin), Groups(n))
        for name, population in {"even": even, "one-sided": one_sided, "rare large": rare}.items()
        for n, margin in _MARGIN_BY_ROWS.items()
        if n != 25
    ),
    *(
        Scenario(f"{name} losses, {count} groups of 6", margin, population(margin), Groups(count, 6, 6))
        for name, population in {"yes/no, only": yes_no, "score, even": even, "score, rare large": rare}.items()
        for count, margin in _MARGIN_BY_GROUPS.items()
    ),
    *(
        Scenario(f"score, rare large losses, {count} groups of 1 to 9", margin, rare(margin), Groups(count, 1, 9))
        for count, margin in _MARGIN_BY_GROUPS.items()
    ),
    Scenario("score, independent, 300 rows", 0.05, independent(0.05), Groups(300)),
    Scenario("score, independent, 50 groups of 6", 0.1, independent(0.1), Groups(50, 6, 6)),
    Scenario("best of 10, yes/no, only losses, 300 rows", 0.05, yes_no(0.05), Groups(300), candidates=10),
    Scenario("best of 10, score, independent, 300 rows", 0.05, independent(0.05), Groups(300), candidates=10),
    Scenario("10 looks, yes/no, only losses, 20 to 200 rows", 0.15, yes_no(0.15), Groups(20), looks=10),
    Scenario("10 looks, score, independent, 30 to 300 rows", 0.1, independent(0.1), Groups(30), looks=10),
)
