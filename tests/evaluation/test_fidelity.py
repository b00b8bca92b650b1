"""Likelihood, forward KL and agreement against a dense float64 reference."""

import copy
import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
import torch

from distill_dagster.evaluation import fidelity
from distill_dagster.evaluation.fidelity import measure_baselines, measure_model, read_teacher
from distill_dagster.evaluation.token_baselines import count_tokens
from distill_dagster.jobs import ModelRef
from distill_dagster.students import heads
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


def measure(
    teacher: ChatModel, student: ChatModel, rows: pl.DataFrame, scratch: Path, max_length: int | None = None
) -> tuple[pl.DataFrame, int]:
    states = read_teacher(teacher, rows, scratch / "hidden", unheard)
    assert states is not None
    return measure_model(states, student, rows, max_length, unheard)


def unheard(done: int, total: int) -> None:
    """Progress that nobody reads."""


def surprise(log_probs: torch.Tensor, completion: list[int]) -> float:
    """Negative log-likelihood of a completion, from `dense`."""
    return -sum(float(log_probs[place, token]) for place, token in enumerate(completion))


def test_likelihood_kl_and_agreement_equal_the_dense_reference(
    teacher: ChatModel, student: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fidelity, "BATCH_TOKENS", 64)
    monkeypatch.setattr(heads, "CHUNK_TOKENS", 5)
    rows = dataset_rows(5, ids=IDS)

    found, too_long = measure(teacher, student, rows, tmp_path)

    assert too_long == 0
    for row, measured in zip(rows.iter_rows(named=True), found.iter_rows(named=True), strict=True):
        prompt = teacher.encode(json.loads(row["messages"]))
        p, q = (dense(chat, prompt, row["completion_ids"]) for chat in (teacher, student))
        assert measured["prompt_id"] == row["prompt_id"]
        assert measured["kl_sum"] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
        assert measured["nll_sum"] == pytest.approx(surprise(q, row["completion_ids"]), rel=1e-4)
        assert measured["top1_hits"] == int((p.argmax(-1) == q.argmax(-1)).sum())
        assert measured["tokens"] == len(row["completion_ids"])  # the stop token is one of them


def test_each_model_reads_its_own_form_of_the_prompt(teacher: ChatModel, student: ChatModel, tmp_path: Path):
    shown = "Answer in one sentence, as a friendly clerk would do it in writing."
    row = dataset_rows(1, ids=IDS[:1]).with_columns(
        teacher_messages=pl.lit(json.dumps([{"role": "system", "content": shown}, {"role": "user", "content": "?"}]))
    )

    found, _ = measure(teacher, student, row, tmp_path)

    prompts = [json.loads(row[column][0]) for column in ("teacher_messages", "messages")]
    p, q = (dense(chat, chat.encode(prompt), IDS[0]) for chat, prompt in zip((teacher, student), prompts, strict=True))
    assert found["kl_sum"][0] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)


def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(
    teacher: ChatModel, student: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    system = {"role": "system", "content": "Answer in one sentence, as a friendly clerk would do it in writing."}
    rows = dataset_rows(5, ids=IDS)
    longer = [json.dumps([system, *json.loads(text)]) for text in rows["messages"]]
    rows = rows.with_columns(messages=pl.Series(longer), teacher_messages=pl.Series(longer))
    together, _ = measure(teacher, student, rows, tmp_path)
    monkeypatch.setattr(fidelity, "can_share_prefix", lambda model: False)

    apart, _ = measure(teacher, student, rows, tmp_path)

    assert together["kl_sum"].to_list() == pytest.approx(apart["kl_sum"].to_list(), rel=1e-4)
    assert together["top1_hits"].to_list() == apart["top1_hits"].to_list()


def test_the_teacher_agrees_with_itself(teacher: ChatModel, tmp_path: Path):
    own, _ = measure(teacher, teacher, dataset_rows(5, ids=IDS), tmp_path)

    assert own["kl_sum"].abs().max() < 1e-5
    assert own["top1_hits"].to_list() == own["tokens"].to_list()


def test_a_model_of_another_vocabulary_reads_the_text_in_its_own_tokens(
    teacher: ChatModel, student: ChatModel, tmp_path: Path
):
    tokenizer = copy.deepcopy(student.tokenizer)
    tokenizer.add_tokens(["<new>"])
    stranger = dataclasses.replace(student, tokenizer=tokenizer)
    rows = dataset_rows(5, ids=IDS)

    found, _ = measure(teacher, stranger, rows, tmp_path)

    assert found["kl_sum"].null_count() == found["top1_hits"].null_count() == 5
    assert found.equals(measure_model(None, stranger, rows, None, unheard)[0])
    assert found["tokens"].to_list() != [len(ids) for ids in IDS]


def test_the_likelihood_of_a_hosted_teachers_texts(student: ChatModel):
    rows = dataset_rows(4)

    found, _ = measure_model(None, student, rows, None, unheard)

    for row, measured in zip(rows.iter_rows(named=True), found.iter_rows(named=True), strict=True):
        completion = [*student.tokenizer.encode(row["completion"]), student.tokenizer.eos_token_id]
        log_probs = dense(student, student.encode(json.loads(row["messages"])), completion)
        assert measured["tokens"] == len(completion)  # the stop token is one of them
        assert measured["nll_sum"] == pytest.approx(surprise(log_probs, completion), rel=1e-4)


def test_rows_that_are_too_long_for_a_model_are_counted(teacher: ChatModel, tmp_path: Path):
    rows = dataset_rows(2, ids=[[40] * 200, [40, 2]])

    frame, too_long = measure(teacher, teacher, rows, tmp_path, max_length=100)

    assert too_long == 1
    assert frame["prompt_id"].to_list() == ["p001"]


def test_count_baselines_guess_what_the_teacher_finds_most_likely(teacher: ChatModel, tmp_path: Path):
    rows = dataset_rows(5, ids=IDS)
    counted = count_tokens(pl.Series(IDS))
    assert counted is not None
    states = read_teacher(teacher, rows, tmp_path / "hidden", unheard)
    assert states is not None

    frame = measure_baselines(states, counted)

    assert frame.group_by("model").len().sort("model").rows() == [("bigram", 5), ("most_frequent", 5)]
    for row in rows.iter_rows(named=True):
        top = dense(teacher, teacher.encode(json.loads(row["messages"])), row["completion_ids"]).argmax(-1)
        hits = frame.filter((pl.col("prompt_id") == row["prompt_id"]) & (pl.col("model") == "most_frequent"))
        assert hits["top1_hits"].item() == int((top == counted.most_frequent).sum())


def test_without_token_ids_there_is_nothing_to_read(teacher: ChatModel, tmp_path: Path):
    assert read_teacher(teacher, dataset_rows(3), tmp_path / "hidden", unheard) is None
