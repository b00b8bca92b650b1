"""What the worker writes for an evaluation."""

from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.fidelity import BASELINE_SCHEMA, FIDELITY_SCHEMA
from distill_dagster.evaluation.predict import GENERATED_SCHEMA, run_predict, run_try
from distill_dagster.jobs import RESULT_FILE, ModelResult, PredictJob, PredictModel, PredictResult, TryJob
from distill_dagster.progress_file import ProgressWriter
from tests.tiny import make_tiny_model
from tests.worker_jobs import dataset_rows, predict_job, write_dataset

IDS = [[40, 50, 60, 2], [40, 50], [70, 71, 2]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("student") / "model", layers=2, seed=3)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "dataset", train=dataset_rows(3, ids=IDS))
    dataset_rows(3, ids=IDS).write_parquet(folder / "test.parquet")
    return folder


STUDENT, BASE, OTHER, TEACHER = "a1", "b2", "c3", "f0"


def predict(job: PredictJob) -> PredictResult:
    return run_predict(job, ProgressWriter(job.out / "progress.jsonl"))


def result_of(job: PredictJob, key: str) -> ModelResult:
    return ModelResult.model_validate_json((job.out / key / RESULT_FILE).read_text(encoding="utf-8"))


def test_a_folder_for_each_model(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student, BASE: tiny_model}, teacher=tiny_model)

    assert predict(job).keys == [STUDENT, BASE, TEACHER]

    for key in (STUDENT, BASE):
        generated = pl.read_parquet(job.out / key / "generated.parquet")
        assert (generated.schema, generated["prompt_id"].to_list()) == (GENERATED_SCHEMA, ["p000", "p001", "p002"])
        assert pl.read_parquet(job.out / key / "fidelity.parquet").schema == FIDELITY_SCHEMA
    assert {path.name for path in (job.out / TEACHER).iterdir()} == {"baselines.parquet", "result.json"}
    assert pl.read_parquet(job.out / TEACHER / "baselines.parquet").schema == BASELINE_SCHEMA
    assert not list(job.out.glob("teacher-*"))  # the teacher's hidden states are gone


def test_sizes_and_speeds(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student, BASE: tiny_model}, teacher=tiny_model)

    predict(job)

    small, base, teacher = (result_of(job, key) for key in (STUDENT, BASE, TEACHER))
    assert small.parameters < teacher.parameters == base.parameters
    assert small.checkpoint_bytes == (student / "model.safetensors").stat().st_size
    assert small.measurements["generated_tokens"] > 0
    assert teacher.measurements["generated_tokens"] > 0  # its stored answers count; it is timed only
    assert teacher.measurements["peak_memory_bytes"] > 0


def test_a_model_says_the_same_whoever_is_measured_with_it(
    tiny_model: Path, student: Path, dataset: Path, tmp_path: Path
):
    alone = predict_job(dataset, tmp_path / "alone", learners={STUDENT: student}, teacher=tiny_model)
    learners = {BASE: tiny_model, OTHER: tiny_model, STUDENT: student}
    together = predict_job(dataset, tmp_path / "together", learners=learners, teacher=tiny_model)

    predict(alone)
    predict(together)

    for name in ("generated.parquet", "fidelity.parquet"):
        first, second = (pl.read_parquet(job.out / STUDENT / name) for job in (alone, together))
        assert first.equals(second)


def test_what_is_done_stays_when_a_later_model_fails(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    learners = {STUDENT: student, BASE: tmp_path / "nothing"}
    job = predict_job(dataset, tmp_path / "out", learners=learners, teacher=tiny_model)

    with pytest.raises(EvaluationError, match="cannot be loaded"):
        predict(job)

    assert {path.name for path in job.out.iterdir() if path.is_dir()} == {STUDENT}


def test_samples_of_one_prompt_share_its_answer(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    one = dataset_rows(1, ids=IDS[:1])
    pl.concat([one, one.with_columns(sample=pl.lit(1, pl.Int32))]).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student}, teacher=tiny_model)

    predict(job)

    answers = pl.read_parquet(job.out / STUDENT / "generated.parquet")
    assert answers["sample"].to_list() == [0, 1]
    assert answers["prediction"].n_unique() == 1


def test_of_a_hosted_teachers_answers_the_likelihood_is_measured(student: Path, dataset: Path, tmp_path: Path):
    dataset_rows(3).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student}, teacher=None)

    predict(job)

    fidelity = pl.read_parquet(job.out / STUDENT / "fidelity.parquet")
    assert fidelity.null_count().row(0) == (0, 0, 0, 0, 3, 3)
    assert (fidelity["nll_sum"] > 0).all()


def test_where_answers_are_not_to_be_read_nothing_is(student: Path, dataset: Path, tmp_path: Path):
    unanswered = dataset_rows(3).with_columns(completion=pl.lit(None, dtype=pl.String))
    unanswered.write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student}, teacher=None)

    predict(job.model_copy(update={"read_answers": False}))

    assert {path.name for path in (job.out / STUDENT).iterdir()} == {"generated.parquet", "result.json"}


def test_without_held_out_rows_there_is_nothing_to_evaluate(student: Path, dataset: Path, tmp_path: Path):
    dataset_rows(0).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", learners={STUDENT: student}, teacher=None)
    with pytest.raises(EvaluationError, match=r"prompts\.split\.test"):
        predict(job)


def test_try_answers_with_every_model_each_reading_its_own_prompt(tiny_model: Path, student: Path, tmp_path: Path):
    models = [
        PredictModel.model_validate(
            {"name": name, "model": {"source": str(path)}, "dtype": "float32", "generate": True}
        )
        for name, path in (("student", student), ("teacher", tiny_model))
    ]
    job = TryJob(
        models=models,
        messages=[{"role": "user", "content": "Who are you?"}],
        teacher_messages=[{"role": "user", "content": "Where is my parcel?"}],
        max_tokens=24,
        out=tmp_path / "out",
    )

    answers = run_try(job)["answers"]

    assert answers == {"student": "I am a tiny model.", "teacher": "It is on its way."}
