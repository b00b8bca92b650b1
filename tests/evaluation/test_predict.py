"""What the worker writes for an evaluation."""

from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.fidelity import FIDELITY_SCHEMA
from distill_dagster.evaluation.predict import GENERATED_SCHEMA, run_predict, run_try
from distill_dagster.jobs import PredictModel, TryJob
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


def test_answers_and_fidelity_of_student_and_base(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    job = predict_job(dataset, tmp_path / "out", student=student, base=tiny_model, teacher=tiny_model)

    result = run_predict(job, ProgressWriter(job.out / "progress.jsonl"))

    generated = pl.read_parquet(job.out / "generated.parquet")
    assert generated.schema == GENERATED_SCHEMA
    assert generated.group_by("model").len().sort("model").rows() == [("base", 3), ("student", 3)]
    measured = pl.read_parquet(job.out / "fidelity.parquet")
    assert measured.schema == FIDELITY_SCHEMA
    assert set(measured["model"]) == {"student", "base", "most_frequent", "bigram"}
    assert result.parameters["student"] < result.parameters["teacher"] == result.parameters["base"]
    assert result.checkpoint_bytes["student"] == (student / "model.safetensors").stat().st_size
    assert result.measurements["student"]["generated_tokens"] > 0
    assert result.measurements["teacher"]["generated_tokens"] > 0  # its stored answers count; it is timed only
    assert result.measurements["worker"]["peak_memory_bytes"] > 0


def test_samples_of_one_prompt_share_its_answer(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    one = dataset_rows(1, ids=IDS[:1])
    pl.concat([one, one.with_columns(sample=pl.lit(1, pl.Int32))]).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", student=student, base=tiny_model, teacher=tiny_model)

    run_predict(job, ProgressWriter(job.out / "progress.jsonl"))

    answers = pl.read_parquet(job.out / "generated.parquet").filter(pl.col("model") == "student")
    assert answers["sample"].to_list() == [0, 1]
    assert answers["prediction"].n_unique() == 1


def test_a_hosted_teacher_has_no_fidelity_file(tiny_model: Path, student: Path, dataset: Path, tmp_path: Path):
    dataset_rows(3).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", student=student, base=tiny_model, teacher=None)

    run_predict(job, ProgressWriter(job.out / "progress.jsonl"))

    assert (job.out / "generated.parquet").exists()
    assert not (job.out / "fidelity.parquet").exists()


def test_without_held_out_rows_there_is_nothing_to_evaluate(student: Path, dataset: Path, tmp_path: Path):
    dataset_rows(0).write_parquet(dataset / "test.parquet")
    job = predict_job(dataset, tmp_path / "out", student=student, base=student, teacher=None)
    with pytest.raises(EvaluationError, match=r"prompts\.split\.test"):
        run_predict(job, ProgressWriter(job.out / "progress.jsonl"))


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
