"""Small dataset frames for tests of training and evaluation."""

import json
from pathlib import Path

import polars as pl

from distill_dagster.jobs import GenerateJob, ModelRef, Prediction, PredictJob, PredictModel, TrainJob

QUESTIONS = ("What is the capital of France?", "Who are you?", "Where is my parcel?", "Tell me a joke.", "2 + 2", "é?")


def messages(question: str) -> str:
    """A prompt as datasets store it."""
    return json.dumps([{"role": "user", "content": question}], ensure_ascii=False)


def dataset_rows(count: int, *, ids: list[list[int]] | None = None, first: int = 0) -> pl.DataFrame:
    """DATASET rows whose completions differ in length; `ids` become their completion_ids."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "prompt_id": [f"p{number:03d}" for number in numbers],
            "sample": [0] * count,
            "messages": [messages(f"{QUESTIONS[number % len(QUESTIONS)]} {number}") for number in numbers],
            "teacher_messages": [messages(f"{QUESTIONS[number % len(QUESTIONS)]} {number}") for number in numbers],
            "completion": [f"Answer {number}." + " It is so." * (number % 3) for number in numbers],
            "completion_ids": ids if ids is not None else [None] * count,
        },
        schema={
            "prompt_id": pl.String(),
            "sample": pl.Int32(),
            "messages": pl.String(),
            "teacher_messages": pl.String(),
            "completion": pl.String(),
            "completion_ids": pl.List(pl.Int32()),
        },
    )


def write_dataset(folder: Path, *, train: pl.DataFrame, validation: pl.DataFrame | None = None) -> Path:
    """A dataset folder as the trainer reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    train.write_parquet(folder / "train.parquet")
    (dataset_rows(0) if validation is None else validation).write_parquet(folder / "validation.parquet")
    return folder


def train_job(model: Path, dataset: Path, out: Path, **changes: object) -> TrainJob:
    """A short training in float32."""
    settings: dict[str, object] = {
        "base": ModelRef(source=str(model)),
        "teacher": ModelRef(source=str(model)),
        "dataset": dataset,
        "epochs": 3,
        "max_steps": None,
        "learning_rate": 3e-3,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.05,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "max_length": 256,
        "lora": None,
        "seeds": [17],
        "precision": "fp32",
        "checkpoint_steps": 2,
        "out": out,
    }
    return TrainJob.model_validate(settings | changes)


def generate_job(model: Path, requests: Path, out: Path, **changes: object) -> GenerateJob:
    """A short generation in float32."""
    settings: dict[str, object] = {
        "model": ModelRef(source=str(model)),
        "dtype": "float32",
        "max_tokens": 16,
        "stop_sequences": [],
        "batch_size": 3,
        "requests": requests,
        "out": out,
    }
    return GenerateJob.model_validate(settings | changes)


def predict_job(folder: Path, out: Path, *, learners: dict[str, Path], teacher: Path | None) -> PredictJob:
    """A prediction on `folder`'s test.parquet and train.parquet in float32.

    Args:
        learners: students and bases by key (hex digits). The teacher's key is `f0`.
    """
    read_by = {key: (key, path, True) for key, path in learners.items()}
    if teacher:
        read_by["f0"] = ("teacher", teacher, False)
    predictions = [
        Prediction(key=key, model=_predict_model(name, path, generate=generate), max_length=256 if generate else None)
        for key, (name, path, generate) in read_by.items()
    ]
    return PredictJob(
        predictions=predictions,
        teacher=_predict_model("teacher", teacher, generate=False) if teacher else None,
        rows=folder / "test.parquet",
        train_rows=folder / "train.parquet",
        max_tokens=16,
        batch_size=4,
        out=out,
    )


def _predict_model(name: str, folder: Path, *, generate: bool) -> PredictModel:
    return PredictModel(name=name, model=ModelRef(source=str(folder)), dtype="float32", generate=generate)
