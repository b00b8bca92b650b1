"""Forward KL and agreement against a dense float64 reference."""

import copy
import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
import torch

from distill_dagster.evaluation import fidelity
from distill_dagster.evaluation.fidelity import measure_fidelity
from distill_dagster.evaluation.token_baselines import count_tokens
from distill_dagster.jobs import ModelRef
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from tests.tiny import make_tiny_model
from tests.worker_jobs import dataset_rows

IDS = [[40, 50, 60, 2], [40, 50], [70, 71, 72, 73, 74, 2], [80, 2], [90] * 9]


def load(folder: Path) -> ChatModel:
    return load_chat_model(ModelRef(source=str(folder)), "float32")


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> ChatModel:
    return load(tiny_model)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(make_tiny_model(tmp_path_factory.mktemp("student"), layers=2, seed=5))


def dense(chat: ChatModel, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities before each completion token, [tokens, vocabulary], float64."""
    logits = chat.model.double()(torch.tensor([prompt + completion])).logits[0]
    chat.model.float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1).detach()


def measure(teacher: ChatModel, models: dict[str, ChatModel], rows: pl.DataFrame, max_length: int = 256):
    baselines = count_tokens(pl.Series(IDS))
    return measure_fidelity(teacher, models, baselines, rows, max_length, lambda done, total: None)


def test_kl_and_agreement_equal_the_dense_reference(
    teacher: ChatModel, student: ChatModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fidelity, "BATCH_TOKENS", 64)
    monkeypatch.setattr(fidelity, "CHUNK_TOKENS", 5)
    rows = dataset_rows(5, ids=IDS)

    frame, too_long = measure(teacher, {"student": student}, rows)

    assert too_long == 0
    found = frame.filter(pl.col("model") == "student").sort("prompt_id")
    for row, measured in zip(rows.iter_rows(named=True), found.iter_rows(named=True), strict=True):
        prompt = teacher.encode(json.loads(row["messages"]))
        p, q = (dense(chat, prompt, row["completion_ids"]) for chat in (teacher, student))
        assert measured["kl_sum"] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
        assert measured["top1_hits"] == int((p.argmax(-1) == q.argmax(-1)).sum())
        assert measured["tokens"] == len(row["completion_ids"])


def test_the_teacher_agrees_with_itself(teacher: ChatModel):
    frame, _ = measure(teacher, {"student": teacher}, dataset_rows(5, ids=IDS))
    own = frame.filter(pl.col("model") == "student")
    assert own["kl_sum"].abs().max() < 1e-5
    assert own["top1_hits"].to_list() == own["tokens"].to_list()


def test_a_model_of_another_vocabulary_has_no_fidelity(teacher: ChatModel, student: ChatModel):
    tokenizer = copy.deepcopy(student.tokenizer)
    tokenizer.add_tokens(["<new>"])
    stranger = dataclasses.replace(student, tokenizer=tokenizer)

    frame, _ = measure(teacher, {"student": stranger}, dataset_rows(5, ids=IDS))

    assert frame["model"].unique().sort().to_list() == ["bigram", "most_frequent"]


def test_rows_that_are_too_long_are_counted(teacher: ChatModel):
    rows = dataset_rows(2, ids=[[40] * 200, [40, 2]])
    frame, too_long = measure(teacher, {}, rows, max_length=100)
    assert too_long == 1
    assert frame["prompt_id"].unique().to_list() == ["p001"]
