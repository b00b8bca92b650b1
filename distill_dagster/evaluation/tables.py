"""The report's tables: quality against human references, fidelity to the teacher, and the health of the texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from distill_dagster.evaluation.declared_metrics import metric_facts
from distill_dagster.evaluation.label_f1 import macro_f1, macro_f1_difference
from distill_dagster.evaluation.model import COUNT_BASELINES, PERPLEXITY, Comparison, Measure, System, Unit, answering
from distill_dagster.evaluation.predictions import KEY, LABEL, REFERENCE_LABEL, TEACHER_LABEL, vs_reference, vs_teacher
from distill_dagster.evaluation.statistics import (
    Estimate,
    mean_estimate,
    paired_difference,
    paired_perplexity_difference,
    paired_ratio_difference,
    perplexity_estimate,
    ratio_estimate,
)
from distill_dagster.spec.metrics import MACRO_F1, MetricName, MetricSpec, metric_name

Pairs = Sequence[tuple[str, str]]
Entries = Sequence[MetricName | MetricSpec]


@dataclass(frozen=True)
class Quantity:
    """What a measure is: its names, its unit, and which way is better (None: neither)."""

    name: str
    label: str
    description: str
    unit: Unit
    higher_is_better: bool | None


@dataclass(frozen=True)
class Scored:
    """Predictions with the settings of every interval made from them.

    Attributes:
        companions: system names of the other students.
    """

    predictions: pl.DataFrame
    confidence: float
    seed: int
    companions: tuple[str, ...] = ()

    @property
    def answering(self) -> tuple[str, ...]:
        """All that answer, in the order of the tables."""
        return answering(self.companions)

    @property
    def learners(self) -> tuple[str, ...]:
        """All that are measured against the teacher: students and base."""
        return (System.STUDENT, *self.companions, System.BASE)

    @property
    def has_teacher_again(self) -> bool:
        """Whether the teacher was asked a second time."""
        return bool((self.predictions["model"] == System.TEACHER_AGAIN.value).any())

    def against(self, *others: str) -> Pairs:
        """The student's comparisons: with its base, `others` and every companion."""
        return [(System.STUDENT, other) for other in (System.BASE, *others, *self.companions)]

    def mean(self, quantity: Quantity, column: pl.Expr, systems: Sequence[str], pairs: Pairs) -> Measure:
        """A mean over rows where `column` is known, and paired differences where both systems' are."""
        return self._measure(quantity, {"value": column}, systems, pairs)

    def rate(self, quantity: Quantity, top: pl.Expr, bottom: pl.Expr, systems: Sequence[str], pairs: Pairs) -> Measure:
        """Σtop/Σbottom over rows where both are known, and paired differences of two such rates."""
        return self._measure(quantity, {"top": top, "bottom": bottom}, systems, pairs)

    def perplexity(self, quantity: Quantity, systems: Sequence[str], pairs: Pairs) -> Measure:
        """exp(Σnats/Σtokens) of the teacher's answers; paired differences where both models read the same tokens."""
        return self._measure(quantity, {"nats": pl.col("nll_sum"), "read": pl.col("nll_tokens")}, systems, pairs)

    def macro_f1(self, quantity: Quantity, target: str, systems: Sequence[str], pairs: Pairs) -> Measure:
        """Macro F1 over rows whose `target`, a column of labels, is known; what is no label is wrong there."""
        return self._measure(quantity, {"target": pl.col(target), "said": pl.col(LABEL)}, systems, pairs)

    def kept(self, column: str, left: str, right: str) -> Estimate:
        """Σleft/Σright of one column over the rows that both have: the share of `right`'s score that `left` keeps."""
        both = _paired(self._rows(left, {"value": pl.col(column)}), self._rows(right, {"value": pl.col(column)}))
        return ratio_estimate(
            both["value"].to_numpy(),
            both["value_right"].to_numpy(),
            both["group_id"].to_list(),
            self.confidence,
            self.seed,
        )

    def _rows(self, system: str, columns: dict[str, pl.Expr]) -> pl.DataFrame:
        own = self.predictions.filter(pl.col("model") == str(system))
        return own.select(*KEY, "group_id", "split", **columns).drop_nulls(list(columns)).sort(KEY)

    def _measure(
        self, quantity: Quantity, columns: dict[str, pl.Expr], systems: Sequence[str], pairs: Pairs
    ) -> Measure:
        rows = {system: self._rows(system, columns) for system in systems}
        present = [(left, right) for left, right in pairs if _are_comparable(rows[left], rows[right])]
        return Measure(
            name=quantity.name,
            label=quantity.label,
            description=quantity.description,
            unit=quantity.unit,
            higher_is_better=quantity.higher_is_better,
            systems={system: self._single(frame) for system, frame in rows.items()},
            comparisons=[
                Comparison(left=left, right=right, difference=self._difference(_paired(rows[left], rows[right])))
                for left, right in present
            ],
        )

    def _single(self, rows: pl.DataFrame) -> Estimate:
        clusters = rows["group_id"].to_list()
        if "said" in rows.columns:
            return macro_f1(rows["target"].to_list(), rows["said"].to_list(), clusters, self.confidence)
        if "value" in rows.columns:
            return mean_estimate(rows["value"].to_numpy(), clusters, self.confidence, self.seed)
        if "nats" in rows.columns:
            nats, read = rows["nats"].to_numpy(), rows["read"].to_numpy()
            return perplexity_estimate(nats, read, clusters, self.confidence, self.seed)
        return ratio_estimate(rows["top"].to_numpy(), rows["bottom"].to_numpy(), clusters, self.confidence, self.seed)

    def _difference(self, both: pl.DataFrame) -> Estimate:
        clusters = both["group_id"].to_list()
        if "said" in both.columns:
            targets, said, other = (both[name].to_list() for name in ("target", "said", "said_right"))
            return macro_f1_difference(targets, said, other, clusters, self.confidence)
        if "value" in both.columns:
            a, b = both["value"].to_numpy(), both["value_right"].to_numpy()
            return paired_difference(a, b, clusters, self.confidence, self.seed)
        if "nats" in both.columns:
            nats, read, nats_right, read_right = (
                both[name].to_numpy() for name in ("nats", "read", "nats_right", "read_right")
            )
            return paired_perplexity_difference(
                nats, read, nats_right, read_right, clusters, self.confidence, self.seed
            )
        top, bottom, top_right, bottom_right = (
            both[name].to_numpy() for name in ("top", "bottom", "top_right", "bottom_right")
        )
        return paired_ratio_difference(top, bottom, top_right, bottom_right, clusters, self.confidence, self.seed)


def quality_table(scored: Scored, metrics: Entries) -> list[Measure]:
    """Teacher, students and base against the human references; what needs none is measured on every row."""
    pairs = scored.against(System.TEACHER)
    return [
        scored.macro_f1(_quantity(metric), REFERENCE_LABEL, scored.answering, pairs)
        if metric == MACRO_F1
        else scored.mean(_quantity(metric), pl.col(vs_reference(metric_name(metric))), scored.answering, pairs)
        for metric in metrics
    ]


def fidelity_table(scored: Scored, metrics: Entries) -> list[Measure]:
    """Closeness to the teacher: forward KL and top-1 agreement per token (local teachers), the perplexity of its
    answers, and metrics against them; a metric that needs no reference is none of these.
    """
    table = []
    if scored.predictions["kl_tokens"].is_not_null().any():
        tokens = pl.col("kl_tokens")
        divergence = Quantity(
            "forward_kl", "Forward KL", "from the teacher’s next-token distribution", "nats_per_token", False
        )
        agreement = Quantity("top1", "Top-1 agreement", "same most likely next token as the teacher", "share", True)
        guessing = (*scored.learners, *COUNT_BASELINES)
        table += [
            scored.rate(divergence, pl.col("kl_sum"), tokens, scored.learners, scored.against()),
            scored.rate(agreement, pl.col("top1_hits"), tokens, guessing, scored.against(*COUNT_BASELINES)),
        ]
    if scored.predictions["nll_tokens"].is_not_null().any():
        likelihood = Quantity(PERPLEXITY, "Perplexity", "of the teacher’s answers, per token", "perplexity", False)
        table.append(scored.perplexity(likelihood, scored.learners, scored.against()))
    again = (System.TEACHER_AGAIN,) if scored.has_teacher_again else ()
    systems, pairs = (*again, *scored.learners), scored.against(*again)
    texts = [
        scored.macro_f1(_quantity(metric), TEACHER_LABEL, systems, pairs)
        if metric == MACRO_F1
        else scored.mean(_quantity(metric), pl.col(vs_teacher(metric_name(metric))), systems, pairs)
        for metric in metrics
        if metric_facts(metric).needs_reference
    ]
    return [*table, *texts]


def health_table(scored: Scored) -> list[Measure]:
    """What text metrics miss: answers that never end, repeat themselves, or run too short or long."""
    no_stop = Quantity("no_stop", "Answers without a stop", "cut off by the token limit", "share", False)
    repetition = Quantity("repetition_rate", "Repetition", "word 4-grams said before in the answer", "share", False)
    ratio = Quantity("length_ratio", "Length", "characters per character of the teacher’s answer", "ratio", None)
    tokens = Quantity("tokens", "Tokens", "per answer", "tokens", None)
    systems, pairs = scored.answering, scored.against(System.TEACHER)
    return [
        scored.mean(no_stop, (~pl.col("stopped")).cast(pl.Float64), systems, pairs),
        scored.mean(repetition, pl.col("repetition_rate"), systems, pairs),
        scored.mean(ratio, pl.col("length_ratio"), scored.learners, scored.against()),
        scored.mean(tokens, pl.col("tokens").cast(pl.Float64), systems, pairs),
    ]


def _quantity(metric: MetricName | MetricSpec) -> Quantity:
    facts = metric_facts(metric)
    return Quantity(facts.name, facts.label, facts.description, "score", True)


def _are_comparable(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether both have rows, and where these are read token by token, as many tokens in each: the same tokenizer."""
    if left.is_empty() or right.is_empty():
        return False
    if "read" not in left.columns:
        return True
    both = _paired(left, right)
    return both["read"].equals(both["read_right"])


def _paired(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    return left.join(right.drop("group_id", "split"), on=KEY, how="inner").sort(KEY)
