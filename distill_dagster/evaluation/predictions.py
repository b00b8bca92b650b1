"""Joins the test split with what student and base answered: one scored row per prompt, sample and model.

Every number of a report can be computed again from this table alone.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.declared_metrics import ROW_KEYS, score_of
from distill_dagster.evaluation.model import COUNT_BASELINES, System, companion_name
from distill_dagster.metrics import METRICS, Metric, label_form, length_ratio, repetition_rate
from distill_dagster.prompts.splits import Split
from distill_dagster.spec.metrics import MACRO_F1

KEY = ["prompt_id", "sample"]
ROW_COLUMNS = [*KEY, "group_id", "partition", "slice", "text", "reference", "completion"]
GOLDEN = "golden"
"""What `split` is of golden rows, which are in no split of the dataset; they decide the gate and nothing else."""
BASE_COLUMNS: dict[str, pl.DataType] = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "model": pl.String(),
    "group_id": pl.String(),
    "partition": pl.String(),
    "split": pl.String(),
    "slice": pl.String(),
    "text": pl.String(),
    "reference": pl.String(),
    "prediction": pl.String(),
    "tokens": pl.Int32(),
    "stopped": pl.Boolean(),
    "repetition_rate": pl.Float64(),
    "length_ratio": pl.Float64(),
    "kl_sum": pl.Float64(),
    "top1_hits": pl.Int32(),
    "kl_tokens": pl.Int32(),
    "nll_sum": pl.Float64(),
    "nll_tokens": pl.Int32(),
}

LABEL, REFERENCE_LABEL, TEACHER_LABEL = "label", "reference_label", "teacher_label"
"""What macro F1 is computed from: the forms of an answer, its reference and the teacher's answer as labels."""


def vs_teacher(metric: str) -> str:
    """The column with a metric's score against the teacher's answer."""
    return f"{metric}_vs_teacher"


def vs_reference(metric: str) -> str:
    """The column with a metric's score against the human reference, or of the answer alone where it needs none."""
    return f"{metric}_vs_reference"


def logical_columns(metrics: Sequence[str]) -> list[str]:
    """The columns of `build_predictions`; all of them are part of an evaluation's version, none is a timing.

    Macro F1 has no score per row: it is computed from the labels of all rows.
    """
    return [*_schema(metrics)]


def build_predictions(
    test: pl.DataFrame,
    generated: pl.DataFrame,
    fidelity: pl.DataFrame | None,
    metrics: Sequence[str],
    known: Mapping[str, Metric] = METRICS,
    labels: Sequence[str] = (),
    split: str = Split.TEST,
) -> pl.DataFrame:
    """Scores every answer; columns as in `logical_columns`, sorted by prompt_id, sample, model.

    Models: teacher (its stored completion), student, base and the other students that answered; with a local teacher
    also the count baselines most_frequent and bigram, which guess next tokens and answer nothing. The teacher asked
    again has the rows of its second answers alone. A row that another model left unanswered has a null prediction and
    scores 0 on every metric. A metric that needs no reference judges the answer alone: it is in the `vs_reference`
    column of every row, and null in `vs_teacher`, for it is no agreement.
    With macro_f1 `label`, `reference_label` and `teacher_label` are the texts' forms in which labels are compared: an
    answer that is missing or no label has an empty one, a target that is none has null, as have the count baselines.

    Args:
        test: DATASET columns; of golden rows also `slice`.
        generated: GENERATED columns and `model`.
        fidelity: FIDELITY columns and `model`, or None where nothing was read token by token.
        metrics: names in `known`, or macro_f1.
        known: metrics by name, as `open_metrics` gives them.
        labels: the declared ones; no other text is a label then.
        split: which one the rows are of, or `GOLDEN`.

    Raises:
        EvaluationError: the test split is empty, the student answered nothing, rows are not the test split's, or a
            user's metric or pattern failed.
    """
    _check(test, generated, fidelity)
    test = test if "slice" in test.columns else test.with_columns(slice=pl.lit(None, dtype=pl.String))
    rows = test.select(ROW_COLUMNS)
    companions = sorted(model for model in set(generated["model"]) if companion_name(model))
    answering = (System.TEACHER_AGAIN, System.STUDENT, *companions, System.BASE)
    models = [model for model in answering if _has(generated, model)]
    models += [model for model in COUNT_BASELINES if _has(fidelity, model)]
    answered = pl.concat([_teacher(test), *(_answers(rows, generated, model) for model in models)])
    joined = _with_fidelity(answered, fidelity).with_columns(split=pl.lit(str(split)))
    scores = (column for name in metrics if name != MACRO_F1 for column in _scores(joined, known[name]))
    scored = joined.with_columns(*_health(joined), *scores, *(_labels(labels) if MACRO_F1 in metrics else ()))
    return scored.select(pl.col(name).cast(kind) for name, kind in _schema(metrics).items()).sort(*KEY, "model")


def _schema(metrics: Sequence[str]) -> dict[str, pl.DataType]:
    scored = [name for name in metrics if name != MACRO_F1]
    columns = [column for name in scored for column in (vs_teacher(name), vs_reference(name))]
    labels = (LABEL, REFERENCE_LABEL, TEACHER_LABEL) if MACRO_F1 in metrics else ()
    return {**BASE_COLUMNS, **dict.fromkeys(columns, pl.Float64()), **dict.fromkeys(labels, pl.String())}


def _check(test: pl.DataFrame, generated: pl.DataFrame, fidelity: pl.DataFrame | None) -> None:
    if test.is_empty():
        raise EvaluationError(
            "the test split has no rows, so there is nothing to evaluate on; raise `prompts.split.test` or add prompts"
        )
    if not _has(generated, System.STUDENT):
        raise EvaluationError("the predictions have no answer of the student; materialise the evaluation again")
    for name, frame in (("answers", generated), ("fidelity rows", fidelity)):
        if frame is None:
            continue
        strangers = frame.join(test, on=KEY, how="anti")
        if len(strangers):
            example = strangers.item(0, "prompt_id")
            raise EvaluationError(
                f"{len(strangers)} {name} are on prompts outside the test split (first: {example}); "
                "they belong to another dataset version: materialise the evaluation again"
            )
        if frame.select(*KEY, "model").is_duplicated().any():
            raise EvaluationError(f"two {name} of one model on one prompt and sample; materialise the evaluation again")


def _has(frame: pl.DataFrame | None, model: str) -> bool:
    return frame is not None and bool((frame["model"] == str(model)).any())


def _teacher(test: pl.DataFrame) -> pl.DataFrame:
    """The stored completions; a hosted teacher's tokens are unknown, and why it stopped is not in the dataset."""
    return test.select(
        *ROW_COLUMNS,
        model=pl.lit(System.TEACHER.value),
        prediction=pl.col("completion"),
        tokens=pl.col("completion_ids").list.len().cast(pl.Int32),
        stopped=pl.lit(None, dtype=pl.Boolean),
    )


def _answers(rows: pl.DataFrame, generated: pl.DataFrame, model: str) -> pl.DataFrame:
    own = generated.filter(pl.col("model") == str(model)).select(
        *KEY, "prediction", pl.col("tokens").cast(pl.Int32), "stopped"
    )
    joined = rows.join(own, on=KEY, how="inner" if model == System.TEACHER_AGAIN else "left")
    joined = joined.with_columns(model=pl.lit(str(model)))
    return joined.select(*ROW_COLUMNS, "model", "prediction", "tokens", "stopped")


def _with_fidelity(answered: pl.DataFrame, fidelity: pl.DataFrame | None) -> pl.DataFrame:
    if fidelity is None:
        return answered.with_columns(
            kl_sum=pl.lit(None, dtype=pl.Float64),
            top1_hits=pl.lit(None, dtype=pl.Int32),
            kl_tokens=pl.lit(None, dtype=pl.Int32),
            nll_sum=pl.lit(None, dtype=pl.Float64),
            nll_tokens=pl.lit(None, dtype=pl.Int32),
        )
    own = fidelity.select(
        *KEY,
        *("model", "kl_sum", "top1_hits", "nll_sum"),
        kl_tokens=pl.when(pl.col("top1_hits").is_not_null()).then("tokens"),
        nll_tokens=pl.when(pl.col("nll_sum").is_not_null()).then("tokens"),
    )
    return answered.join(own, on=[*KEY, "model"], how="left")


def _health(joined: pl.DataFrame) -> list[pl.Series]:
    predictions, completions = joined["prediction"].to_list(), joined["completion"].to_list()
    repeated = [None if text is None else repetition_rate(text) for text in predictions]
    ratios = [
        None if text is None else length_ratio(text, teacher)
        for text, teacher in zip(predictions, completions, strict=True)
    ]
    return [
        pl.Series("repetition_rate", repeated, dtype=pl.Float64),
        pl.Series("length_ratio", ratios, dtype=pl.Float64),
    ]


def _scores(joined: pl.DataFrame, metric: Metric) -> list[pl.Series]:
    """Both columns of a metric; the count baselines answer nothing, and the teacher is not compared with itself."""
    rows = joined.select(*ROW_KEYS).to_dicts()
    models = joined["model"].to_list()
    predictions = joined["prediction"].to_list()
    guessing = {model.value for model in COUNT_BASELINES}

    def column(name: str, against: str, not_of: set[str]) -> pl.Series:
        values = [
            None if model in not_of else score_of(metric, text, row[against], row)
            for model, text, row in zip(models, predictions, rows, strict=True)
        ]
        return pl.Series(name, values, dtype=pl.Float64)

    own = column(vs_reference(metric.name), "reference", guessing)
    if not metric.needs_reference:
        return [pl.Series(vs_teacher(metric.name), [None] * len(joined), dtype=pl.Float64), own]
    return [column(vs_teacher(metric.name), "completion", guessing | {System.TEACHER.value}), own]


def _labels(declared: Sequence[str]) -> list[pl.Expr]:
    known = {label_form(label) for label in declared}

    def form(text: str) -> str:
        found = label_form(text)
        return found if not known or found in known else ""

    def forms(column: str) -> pl.Expr:
        return pl.col(column).map_elements(form, return_dtype=pl.String)

    answers = ~pl.col("model").is_in([model.value for model in COUNT_BASELINES])
    return [
        pl.when(answers).then(forms("prediction").fill_null("")).alias(LABEL),
        forms("reference").replace("", None).alias(REFERENCE_LABEL),
        forms("completion").replace("", None).alias(TEACHER_LABEL),
    ]
