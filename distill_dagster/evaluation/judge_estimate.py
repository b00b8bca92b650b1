"""What a hosted judge of a distillation's evaluations would be asked, and the most that it would cost."""

from dataclasses import dataclass

import polars as pl

from distill_dagster.evaluation.build import asset_of
from distill_dagster.evaluation.subjects import longest_answer
from distill_dagster.evaluation.write import PREDICTIONS_FILE
from distill_dagster.judging.ask import plan_judgements
from distill_dagster.judging.pairs import choose_pairs
from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.splits import Split
from distill_dagster.storage import read_current
from distill_dagster.students.build import asset_of as student_asset
from distill_dagster.worker_process import no_launch

BYTES_A_TOKEN = 4
"""A rule of thumb for English text."""
_ROW = ("prompt_id", "sample", "group_id", "text", "reference")
_JUDGED_MODELS = ("teacher", "student", "base")


@dataclass(frozen=True)
class JudgeEstimate:
    """What judging all declared students would take; nobody was asked.

    Attributes:
        judge: who would be asked.
        pairs: student and opponent on one row each.
        without_call: pairs decided without the judge.
        needed, stored, missing: calls, two a pair at most.
        most_microusd: the most that the missing ones can cost, with texts as `basis` says.
        basis: whose answers were looked at.
    """

    judge: str
    pairs: int
    without_call: int
    needed: int
    stored: int
    missing: int
    most_microusd: int
    basis: str


def estimate_judge(distillation: Distillation) -> JudgeEstimate | None:
    """The sum over all declared students; None without a hosted judge or a student.

    A student whose current version is evaluated counts with its answers. The others count with stand-ins: as long as
    the teacher's answers, or without these as long as an answer may be.

    Raises:
        DistillError: the judge cannot be used as declared, or the prompts cannot be read.
    """
    spec = distillation.spec.evaluation.judge
    students = list(distillation.spec.students)
    if spec is None or spec.is_local or not students:
        return None
    answered = {student: _answers(distillation, student) for student in students}
    known = [answers for answers in answered.values() if answers is not None]
    stand_ins, basis = None, "the answers of the current evaluations"
    if len(known) < len(students):
        stand_ins, taken = _stand_ins(distillation)
        unknown = ", ".join(student for student, answers in answered.items() if answers is None)
        basis = f"answers of {unknown} taken to be {taken}"
    frames = [*known, *([] if stand_ins is None else [stand_ins] * (len(students) - len(known)))]
    plans = [plan_judgements(distillation, choose_pairs(frame, spec), no_launch) for frame in frames]
    return JudgeEstimate(
        judge=spec.label,
        pairs=sum(plan.pairs for plan in plans),
        without_call=sum(plan.without_call for plan in plans),
        needed=sum(plan.calls.needed for plan in plans),
        stored=sum(plan.calls.stored for plan in plans),
        missing=sum(plan.calls.missing + plan.calls.in_batches for plan in plans),
        most_microusd=sum(plan.calls.most_microusd for plan in plans),
        basis=basis,
    )


def _answers(distillation: Distillation, student: str) -> pl.DataFrame | None:
    """What the models said in the current evaluation of a student, if it is of its current version and dataset."""
    evaluations = distillation.files.asset(asset_of(student))
    evaluated = read_current(evaluations)
    trained = read_current(distillation.files.asset(student_asset(student)))
    dataset = read_current(distillation.files.asset("dataset"))
    if evaluated is None or trained is None or dataset is None:
        return None
    folder = evaluations / evaluated.version
    if not folder.is_dir():
        return None
    inputs = read_manifest(folder)["inputs"]
    if (inputs["student"], inputs["dataset"]) != (trained.version, dataset.version):
        return None
    columns = [*_ROW, "split", "model", "prediction"]
    rows = pl.read_parquet(folder / PREDICTIONS_FILE, columns=columns)
    return rows.filter(pl.col("split") == Split.TEST.value)


def _stand_ins(distillation: Distillation) -> tuple[pl.DataFrame, str]:
    """Test rows with answers of models that have given none yet, and what they are in words."""
    dataset = read_current(distillation.files.asset("dataset"))
    file = distillation.files.asset("dataset") / dataset.version / "test.parquet" if dataset else None
    if file is not None and file.is_file():
        rows, said = pl.read_parquet(file).select(*_ROW, said="completion"), "as long as the teacher’s"
    else:
        longest = longest_answer(distillation)
        rows = _test_prompts(distillation).with_columns(said=pl.lit("x" * (BYTES_A_TOKEN * longest)))
        said = f"{longest:,} tokens of {BYTES_A_TOKEN} bytes, as no answer is in a dataset yet"
    spoken = [
        rows.select(*_ROW, model=pl.lit(model), prediction=pl.concat_str(pl.lit(model[0]), "said"))
        for model in _JUDGED_MODELS
    ]
    return pl.concat(spoken), said


def _test_prompts(distillation: Distillation) -> pl.DataFrame:
    """The test split of the sources as they are now, one sample a prompt."""
    prompts = [build.frame for build in build_prompts(distillation).partitions.values()]
    test = pl.concat(prompts).filter(pl.col("split") == Split.TEST.value)
    return test.with_columns(sample=pl.lit(0, dtype=pl.Int32)).select(_ROW)
