"""Measures what each design's answers came to: usable or not, how good, how long, how dear, and how alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from distill_dagster.evaluation.declared_metrics import ROW_KEYS, metric_facts, open_metrics, score_of
from distill_dagster.evaluation.statistics import DEFAULT_SEED, Estimate, mean_estimate, paired_difference
from distill_dagster.metrics import Metric, chrf, words
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.metrics import MACRO_F1
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.answers.assessment import Assessor
from distill_dagster.teachers.answers.selection import is_usable
from distill_dagster.teachers.answers.validity import is_judged
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.money.dollars import MICRO
from distill_dagster.variants.ask import ROW_COLUMNS, Inquiry, Question, of_texts
from distill_dagster.variants.headlines import headlines
from distill_dagster.variants.make import DECLARED, declared_values
from distill_dagster.variants.model import Agreement, DesignFacts, DesignMeasure, MeasureUnit, VariantsReport

EXAMPLES = 10
ANSWER_COLUMNS = (
    "design",
    *ROW_COLUMNS,
    "messages",
    "request_key",
    "status",
    "detail",
    "answer",
    "problem",
    "usable",
    "words",
    "input_tokens",
    "output_tokens",
    "cost_microusd",
)


def score_answers(inquiry: Inquiry, answers: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One row for each row and design, by which every number can be computed again.

    Args:
        answers: each question's requests with the answers' FETCHED columns.

    Returns:
        ANSWER_COLUMNS, and a column for each declared metric: null without the reference it needs, and 0 where the
        design has no text to score (refused, failed, empty). `answer` is null there; `cost_microusd` is the price of a
        single message, however the stored answer was paid.
    """
    frames = [_scored(inquiry, question, frame) for question, frame in zip(inquiry.questions, answers, strict=True)]
    return pl.concat(frames)


def compare(inquiry: Inquiry, scored: pl.DataFrame) -> VariantsReport:
    """The report on `score_answers`."""
    evaluation = of_texts(inquiry.distillation.spec).evaluation
    comparison = _Comparison(scored, [q.design.name for q in inquiry.questions], evaluation.confidence)
    measures = [comparison.measure(quantity) for quantity in _quantities(inquiry, evaluation)]
    agreement = comparison.agreement()
    designs = [_facts(question, scored) for question in inquiry.questions]
    primary = next(facts for facts in map(metric_facts, evaluation.metrics) if facts.name == evaluation.primary_metric)
    referenced = len(inquiry.rows) - inquiry.rows["reference"].null_count()
    return VariantsReport(
        distillation=inquiry.distillation.name,
        headlines=headlines(designs, measures, agreement, primary),
        rows=len(inquiry.rows),
        groups=inquiry.rows["group_id"].n_unique(),
        available=inquiry.available,
        rows_with_reference=referenced,
        primary_metric=primary.name,
        declared=declared_values(inquiry.distillation),
        designs=designs,
        measures=measures,
        agreement=agreement,
        examples=comparison.examples(),
        prompts=dict(inquiry.versions),
        confidence=evaluation.confidence,
        seed=DEFAULT_SEED,
    )


@dataclass(frozen=True)
class _Quantity:
    """What a measure is, and its value on a row; null where a row has none."""

    name: str
    label: str
    description: str
    unit: MeasureUnit
    higher_is_better: bool | None
    value: pl.Expr


def _quantities(inquiry: Inquiry, evaluation: EvaluationSpec) -> list[_Quantity]:
    teacher = inquiry.distillation.spec.teacher
    demand = ", one of the labels" if teacher.labels else ", JSON of the schema" if teacher.json_schema else ""
    usable = f"ended by itself with a text{demand}"
    each = pl.col
    metrics = [
        _Quantity(
            facts.name,
            facts.label,
            f"{facts.description}, against the reference" if facts.needs_reference else facts.description,
            "score",
            True,
            each(facts.name),
        )
        for facts in map(metric_facts, evaluation.metrics)
        if facts.name != MACRO_F1  # a few rows a design are no class-wise measure
    ]
    return [
        _Quantity("usable", "Usable answers", usable, "share", True, each("usable").cast(pl.Float64)),
        *metrics,
        _Quantity("words", "Words", "per answer", "words", None, each("words").cast(pl.Float64)),
        _Quantity(
            "output_tokens",
            "Output tokens",
            "per request, thinking included",
            "tokens",
            None,
            each("output_tokens").cast(pl.Float64),
        ),
        # micro-dollars a request, in dollars per 1,000 requests
        _Quantity("cost", "Cost", "per 1,000 requests", "usd", False, each("cost_microusd") * 1000 / MICRO),
    ]


@dataclass(frozen=True)
class _Comparison:
    """The scored rows with the settings of every interval made from them."""

    scored: pl.DataFrame
    designs: Sequence[str]
    confidence: float

    def measure(self, quantity: _Quantity) -> DesignMeasure:
        """Each design's mean over the rows where the value is known, and paired differences where both are."""
        known = {name: self._rows(name, quantity.value) for name in self.designs}
        declared = known[DECLARED]
        return DesignMeasure(
            name=quantity.name,
            label=quantity.label,
            description=quantity.description,
            unit=quantity.unit,
            higher_is_better=quantity.higher_is_better,
            designs={name: self._mean(rows["value"], rows["group_id"]) for name, rows in known.items()},
            differences={
                name: self._difference(rows.join(declared.drop("group_id"), on="prompt_id").sort("prompt_id"))
                for name, rows in known.items()
                if name != DECLARED
            },
        )

    def agreement(self) -> list[Agreement]:
        """Mean similarity of each two designs' answers, over the rows where both have one."""
        found = []
        for left, right in combinations(self.designs, 2):
            both = self._pair(left, right).drop_nulls(["value", "value_right"])
            similarity = pl.Series(map(_similarity, both["value"], both["value_right"]), dtype=pl.Float64)
            estimate = self._mean(similarity, both["group_id"])
            found.append(Agreement(left=left, right=right, similarity=estimate))
        return found

    def examples(self) -> list[str]:
        """Prompt ids of the rows whose answers are least alike; an answer and none are not alike at all."""
        pairs = [
            pair.select(
                "prompt_id",
                similarity=pl.Series(map(_similarity_or_none, pair["value"], pair["value_right"]), dtype=pl.Float64),
            )
            for pair in (self._pair(left, right) for left, right in combinations(self.designs, 2))
        ]
        rows = pl.concat(pairs).group_by("prompt_id").agg(pl.col("similarity").mean())
        unlike = rows.filter(pl.col("similarity") < 1).sort("similarity", "prompt_id")
        return unlike["prompt_id"].head(EXAMPLES).to_list()

    def _pair(self, left: str, right: str) -> pl.DataFrame:
        answer = pl.col("answer")
        rows = self._of(left, answer).join(self._of(right, answer).drop("group_id"), on="prompt_id")
        return rows.sort("prompt_id")

    def _rows(self, design: str, value: pl.Expr) -> pl.DataFrame:
        return self._of(design, value).drop_nulls("value").sort("prompt_id")

    def _of(self, design: str, value: pl.Expr) -> pl.DataFrame:
        return self.scored.filter(pl.col("design") == design).select("prompt_id", "group_id", value=value)

    def _mean(self, values: pl.Series, groups: pl.Series) -> Estimate:
        return mean_estimate(values.to_numpy(), groups.to_list(), self.confidence)

    def _difference(self, both: pl.DataFrame) -> Estimate:
        values, declared = both["value"].to_numpy(), both["value_right"].to_numpy()
        return paired_difference(values, declared, both["group_id"].to_list(), self.confidence)


def _scored(inquiry: Inquiry, question: Question, answers: pl.DataFrame) -> pl.DataFrame:
    distillation = question.design.distillation
    rows = answers.join(inquiry.rows, on="prompt_id", how="left", maintain_order="left")
    assessor = Assessor(_unselected(distillation.spec.teacher), distillation.folder, distillation.project.root)
    judged = assessor.assess(rows).with_columns(
        design=pl.lit(question.design.name),
        answer=pl.when(is_judged()).then("completion"),
        usable=is_usable(),
        cost_microusd=_costs(question, rows),
    )
    texts = judged["answer"].to_list()
    counts = pl.Series("words", [None if text is None else len(words(text)) for text in texts], dtype=pl.Int64)
    declared = inquiry.distillation
    with open_metrics(of_texts(declared.spec), declared.folder, declared.project.root) as metrics:
        scores = [_scores(metric, texts, judged) for metric in metrics.values()]
    return judged.with_columns(counts, *scores).select(*ANSWER_COLUMNS, *metrics)


def _unselected(teacher: TeacherSpec) -> TeacherSpec:
    """One answer a row is looked at, so that there is nothing to select, and no judge to pay."""
    return teacher.model_copy(update={"select": "all", "samples": 1})


def _scores(metric: Metric, texts: list[str | None], judged: pl.DataFrame) -> pl.Series:
    """The answers are the teacher's own, so a row has no other `completion`."""
    rows = judged.with_columns(completion=pl.lit(None, dtype=pl.String)).select(ROW_KEYS).to_dicts()
    values = [score_of(metric, text, row["reference"], row) for text, row in zip(texts, rows, strict=True)]
    return pl.Series(metric.name, values, dtype=pl.Float64)


def _costs(question: Question, rows: pl.DataFrame) -> pl.Series:
    """Micro-dollars of each answer as a single message; what came in a batch at half price costs the same here."""
    if not isinstance(question.teacher, AnthropicTeacher):
        return rows["cost_microusd"]
    price = question.teacher.price
    usage = rows.select("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens").fill_null(0)
    costs = [
        price.microusd(read, written, cache_write_tokens=cache_write, cache_read_tokens=cache_read)
        for read, written, cache_write, cache_read in usage.iter_rows()
    ]
    return pl.Series("cost_microusd", costs, dtype=pl.Int64)


def _facts(question: Question, scored: pl.DataFrame) -> DesignFacts:
    design, identity = question.design, question.teacher.identity
    own = scored.filter(pl.col("design") == design.name)
    return DesignFacts(
        name=design.name,
        provider=identity.provider,
        model=design.distillation.spec.teacher.model,
        changes=dict(design.changes),
        identity=identity.digest,
        rows=len(own),
        statuses=_counts(own["status"]),
        problems=_counts(own["problem"]),
        unrendered=question.unrendered,
        median_words=_median(own["words"]),
        median_output_tokens=_median(own["output_tokens"]),
    )


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.drop_nulls().value_counts().sort(values.name).iter_rows())


def _median(values: pl.Series) -> float | None:
    median: Any = values.median()
    return None if median is None else float(median)


def _similarity(left: str, right: str) -> float:
    """chrF is a recall-weighted score of one text against another; the mean of both directions prefers neither."""
    return (chrf(left, right) + chrf(right, left)) / 2


def _similarity_or_none(left: str | None, right: str | None) -> float:
    if left is None or right is None:
        return float(left is right)
    return _similarity(left, right)
