"""Asks all models for what an evaluation compares: in the worker, and at the teacher and the judge."""

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.dataset.leakage import require_no_golden_rows
from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.collect import asked_rows, evaluation_inputs, held_out_rows
from distill_dagster.evaluation.golden import golden_inputs
from distill_dagster.evaluation.harness import HarnessFindings, harness_models, require_harness, run_harness
from distill_dagster.evaluation.harness_files import outcome_inputs
from distill_dagster.evaluation.inputs import EvaluationInputs, HeldOutInputs
from distill_dagster.evaluation.judged import judge_answers
from distill_dagster.evaluation.planned_calls import Asking, Purses
from distill_dagster.evaluation.prediction_files import (
    Predicted,
    Wanted,
    missing,
    publish_finished,
    read_predictions,
)
from distill_dagster.evaluation.second_sample import with_second_answers
from distill_dagster.evaluation.similarity import find_embedders, measure_similarities, text_pairs
from distill_dagster.evaluation.subjects import Subjects, longest_answer, teacher_model, wanted_predictions
from distill_dagster.jobs import PredictJob
from distill_dagster.project import Distillation
from distill_dagster.storage import write_file
from distill_dagster.worker_process import Launch, run_job


@dataclass(frozen=True)
class Measured:
    """What was asked and answered.

    Attributes:
        evaluation: all that the report is made from.
        outcomes: versions of the harness's stored outcomes, by the name of an input.
    """

    evaluation: EvaluationInputs
    outcomes: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Rows, by what they are for."""
        evaluation = self.evaluation
        parts = {"held_out_rows": evaluation.held_out, "golden_rows": evaluation.golden}
        return {"test_rows": len(evaluation.test)} | {name: len(part.rows) for name, part in parts.items() if part}


def measure(
    distillation: Distillation,
    subjects: Subjects,
    work: Path,
    launch: Launch,
    purses: Purses,
    turn: AbstractContextManager[None] | None,
) -> Measured:
    """All that an evaluation of some models is made from; what is stored is not asked again.

    Args:
        work: folder for what the worker reads and writes.
        purses: pay for second answers, those to golden rows, and the judge's.
        turn: held while the judge is asked.

    Raises:
        EvaluationError: the test split is empty, or the models cannot be measured as declared.
        PlanError: more calls are missing than were planned.
    """
    models = _Models(distillation, subjects, launch)
    test = models.test_rows()
    require_no_golden_rows(distillation, subjects.dataset)
    require_harness(distillation)
    embedders = find_embedders(distillation)
    away = held_out_rows(distillation, models.dataset)
    asked = models.asked(test)
    predicted = models.predict(asked, work)
    predicted = with_second_answers(predicted, distillation, asked, purses.of(Asking.SECOND_ANSWERS))
    held_out = None
    if away is not None:
        apart = models.predict(models.asked(away), work / "held_out")
        held_out = HeldOutInputs(away, apart.generated, apart.fidelity)
    golden = golden_inputs(distillation, subjects, work / "golden", launch, purses.of(Asking.GOLDEN_ANSWERS))
    harness = models.run_harness(asked, work)
    judged = judge_answers(distillation, test, predicted.generated, launch, purses.of(Asking.JUDGE), turn)
    answered = [(test, predicted.generated), *((one.rows, one.generated) for one in (held_out, golden) if one)]
    evaluation = dataclasses.replace(
        evaluation_inputs(distillation, subjects, test, predicted, held_out, golden),
        harness=harness.table if harness is not None else None,
        judged=judged,
        similarities=measure_similarities(embedders, text_pairs(answered), work, launch) if embedders else {},
    )
    return Measured(evaluation, outcome_inputs(harness.outcomes) if harness is not None else {})


class _Models:
    """The models of one evaluation, and the dataset that they are compared on."""

    def __init__(self, distillation: Distillation, subjects: Subjects, launch: Launch) -> None:
        self._distillation, self._subjects, self._launch = distillation, subjects, launch
        self.dataset = distillation.files.asset("dataset") / subjects.dataset

    def test_rows(self) -> pl.DataFrame:
        """The test split (DATASET columns), which has to have rows."""
        test = pl.read_parquet(self.dataset / "test.parquet")
        if test.is_empty():
            raise EvaluationError(
                f"{self._distillation.name}: no rows in the test split, so nothing can be measured; raise "
                "prompts.split.test"
            )
        return test

    def asked(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What a model is asked for some rows of the dataset; see `asked_rows`."""
        return asked_rows(self._distillation, self.dataset, rows)

    def predict(self, asked: pl.DataFrame, work: Path) -> Predicted:
        """All models' predictions on some rows: those that are stored, and those that one worker job makes now."""
        distillation = self._distillation
        wanted = self._wanted(asked)
        publish_finished(distillation, wanted, work)  # of a run that was cut short
        absent = missing(distillation, wanted)
        if absent:
            file = work / "rows.parquet"
            write_file(file, lambda aside: asked.write_parquet(aside))
            job = PredictJob(
                predictions=[one.prediction for one in absent],
                teacher=teacher_model(distillation, self._subjects),
                rows=file,
                train_rows=self._train,
                max_tokens=longest_answer(distillation),
                batch_size=distillation.spec.evaluation.batch_size,
                out=work,
            )
            run_job(job, self._launch, on_poll=lambda: publish_finished(distillation, absent, work))
        return read_predictions(distillation, wanted)

    def run_harness(self, asked: pl.DataFrame, work: Path) -> HarnessFindings | None:
        """What the harness says of the models that are `asked` the test rows."""
        if self._distillation.spec.evaluation.harness is None:
            return None
        wanted = self._wanted(asked)
        return run_harness(self._distillation, harness_models(wanted, self._subjects.versions), work, self._launch)

    @property
    def _train(self) -> Path:
        return self.dataset / "train.parquet"

    def _wanted(self, asked: pl.DataFrame) -> list[Wanted]:
        train = pl.read_parquet(self._train, columns=["completion_ids"])
        return wanted_predictions(self._distillation, self._subjects, asked, train)
