"""Which answers are judged, the student's beside each opponent's on the same rows, and the tables that say so."""

import polars as pl

from distill_dagster.prompts.splits import sha256_hex
from distill_dagster.spec.judge import PairJudgeSpec

KEY = ("prompt_id", "sample")
PAIR_KEY = (*KEY, "opponent")
PAIRS = pl.Schema(
    {
        "prompt_id": pl.String,
        "sample": pl.Int32,
        "group_id": pl.String,
        "text": pl.String,
        "answer_student": pl.String,
        "answer_other": pl.String,
        "opponent": pl.String,
    }
)
JUDGED = pl.Schema(
    {
        "prompt_id": pl.String,
        "sample": pl.Int32,
        "group_id": pl.String,
        "opponent": pl.String,
        "order": pl.String,
        "verdict": pl.String,
        "problem": pl.String,
        "request_key": pl.String,
    }
)
STUDENT, OTHER = "student", "other"
REFERENCE = "reference"


def choose_pairs(predictions: pl.DataFrame, spec: PairJudgeSpec) -> pl.DataFrame:
    """The pairs to judge, of at most `spec.rows` test rows.

    The rows are those with the smallest hash of group, prompt id and sample: the same for every opponent and student,
    and a larger number only adds to a smaller one. A row without a human reference is no pair against `reference`.

    Args:
        predictions: prompt_id, sample, group_id, text, reference, model, prediction: one row a test row and model,
            where `model` is `student` or an opponent, and `prediction` is null where a model gave no answer.

    Returns:
        PAIRS columns, opponents in the order of `spec.against`.
    """
    students = predictions.filter(pl.col("model") == STUDENT).rename({"prediction": "answer_student"})
    mixed = sha256_hex(pl.concat_str("group_id", "prompt_id", "sample", separator=":"))
    rows = students.with_columns(mixed=mixed).sort("mixed").head(spec.rows or len(students)).sort(KEY)
    frames = [pl.DataFrame(schema=PAIRS)]
    for opponent in spec.against:
        if opponent == REFERENCE:
            paired = rows.filter(pl.col("reference").is_not_null()).with_columns(answer_other="reference")
        else:
            others = predictions.filter(pl.col("model") == opponent).select(*KEY, answer_other="prediction")
            paired = rows.join(others, on=KEY, how="inner", maintain_order="left")
        frames.append(paired.with_columns(opponent=pl.lit(opponent)).select(PAIRS.names()).cast(PAIRS))
    return pl.concat(frames)
