"""The calls of `evaluation.judge`: of the very pairs where all answers are stored, else of all that there can be."""

import polars as pl

from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.planned_calls import Asking
from distill_dagster.evaluation.prediction_files import is_whole, prediction_folder, read_predictions
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.subjects import longest_answer, subjects_of, wanted_predictions
from distill_dagster.judging.ask import plan_judgements
from distill_dagster.judging.pairs import REFERENCE, choose_pairs
from distill_dagster.judging.prompts import ORDERS
from distill_dagster.planning.coming_rows import ComingRows
from distill_dagster.planning.effects import Downstream
from distill_dagster.planning.model import EvaluationCalls, TeacherCalls
from distill_dagster.project import Distillation
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.worker_process import no_launch

BYTES_A_TOKEN = 4
"""A rule of thumb for English text."""
CHUNK_ROWS = 500
_TEXTS = ("prompt_id", "group_id", "text", "reference")


def verdict_calls(
    distillation: Distillation, student: str, spec: PairJudgeSpec, rows: ComingRows, downstream: Downstream
) -> EvaluationCalls:
    """The judge's on a student's answers.

    Raises:
        DistillError: the judge cannot be used as declared, or nothing says what it costs.
    """
    pairs = _stored_pairs(distillation, student, spec, rows, downstream)
    if pairs is None:
        return _at_most(distillation, student, spec, rows)
    found = plan_judgements(distillation, pairs, no_launch).calls
    return EvaluationCalls(
        asking=Asking.JUDGE.value,
        student=student,
        calls=TeacherCalls(needed=found.missing, stored=found.stored, in_batches=found.in_batches),
        exact=True,
        most_microusd=None if spec.is_local else found.most_microusd,
        basis="the stored answers",
    )


def _stored_pairs(
    distillation: Distillation, student: str, spec: PairJudgeSpec, rows: ComingRows, downstream: Downstream
) -> pl.DataFrame | None:
    """The very pairs that will be judged; None while an answer is to come."""
    dataset, versions = downstream.dataset_version, downstream.student_versions
    if dataset is None or student not in versions:
        return None
    subjects = subjects_of(distillation, student, dataset, {student: versions[student]})
    train = pl.read_parquet(rows.folder / "train.parquet", columns=["completion_ids"])
    wanted = wanted_predictions(distillation, subjects, rows.asked(), train)
    answering = [one for one in wanted if one.system in (System.STUDENT, System.BASE)]
    if not all(is_whole(prediction_folder(distillation, one.prediction.key)) for one in answering):
        return None
    generated = read_predictions(distillation, answering).generated
    return choose_pairs(build_predictions(rows.test(), generated, None, ()), spec)


def _at_most(distillation: Distillation, student: str, spec: PairJudgeSpec, rows: ComingRows) -> EvaluationCalls:
    """Both orders of every pair that there can be, about the longest questions and with the longest answers."""
    test = rows.test() if rows.are_known else _any_test_rows(distillation, rows)
    count = min(spec.rows or len(test), len(test))
    references = min(count, len(test) - test["reference"].null_count())
    pairs = sum(references if opponent == REFERENCE else count for opponent in spec.against)
    longest = longest_answer(distillation)
    return EvaluationCalls(
        asking=Asking.JUDGE.value,
        student=student,
        calls=TeacherCalls(needed=len(ORDERS) * pairs),
        exact=False,
        most_microusd=None if spec.is_local else _most_microusd(distillation, spec, test, count),
        basis=f"answers taken to be {longest:,} tokens of {BYTES_A_TOKEN} bytes, no two of them equal",
    )


def _any_test_rows(distillation: Distillation, rows: ComingRows) -> pl.DataFrame:
    """Every answer to a test prompt that a dataset can have."""
    teacher = distillation.spec.teacher
    samples = range(teacher.samples if teacher.select == "all" else 1)
    return rows.prompts(_TEXTS).join(pl.DataFrame({"sample": pl.Series(samples, dtype=pl.Int32)}), how="cross")


def _most_microusd(distillation: Distillation, spec: PairJudgeSpec, test: pl.DataFrame, count: int) -> int:
    long = test.sort(pl.col("text").str.len_bytes(), descending=True).head(count)
    every = spec.model_copy(update={"rows": None})
    return sum(_dearest(distillation, chunk, every) for chunk in long.iter_slices(CHUNK_ROWS))


def _dearest(distillation: Distillation, rows: pl.DataFrame, spec: PairJudgeSpec) -> int:
    """Micro-dollars of all calls about some rows; equal requests, which other answers may tell apart, count each."""
    longest = "x" * (BYTES_A_TOKEN * longest_answer(distillation))
    spoken = [
        rows.select(*_TEXTS, "sample", model=pl.lit(model.value), prediction=pl.lit(f"{model.value[0]}{longest}"))
        for model in (System.STUDENT, System.TEACHER, System.BASE)
    ]
    pairs = choose_pairs(pl.concat(spoken), spec)
    found = plan_judgements(distillation, pairs, no_launch).calls
    return -(-found.most_microusd * len(ORDERS) * len(pairs) // found.missing) if found.missing else 0
