"""A file of requests answered shard by shard, resumable after any interruption."""

from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoTokenizer

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import ProgressLine
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local import transformers_local
from distill_dagster.teachers.local.shards import SHARD_SCHEMA
from distill_dagster.teachers.local.transformers_local import run_generate
from tests.worker_jobs import QUESTIONS, generate_job, messages


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    keys = [f"key{index}" for index in range(len(QUESTIONS))]
    frame = pl.DataFrame({"request_key": keys, "messages": [messages(question) for question in QUESTIONS]})
    frame.write_parquet(tmp_path / "requests.parquet")
    return tmp_path / "requests.parquet"


def shards(folder: Path) -> list[pl.DataFrame]:
    return [pl.read_parquet(path) for path in sorted(folder.glob("shard-*.parquet"))]


def progress(tmp_path: Path) -> ProgressWriter:
    return ProgressWriter(tmp_path / "out" / "progress.jsonl")


def test_every_request_is_answered_once_longest_first(tiny_model: Path, requests: Path, tmp_path: Path):
    job = generate_job(tiny_model, requests, tmp_path / "out", batch_size=4)

    result = run_generate(job, progress(tmp_path))

    found = shards(job.out)
    assert [shard.height for shard in found] == [4, 2]
    answers = pl.concat(found)
    assert answers.schema == SHARD_SCHEMA
    assert sorted(answers["request_key"]) == sorted(pl.read_parquet(requests)["request_key"])
    assert answers["input_tokens"].is_sorted(descending=True)
    assert result["answered"] == 6
    assert result["output_tokens"] == answers["output_tokens"].sum() == answers["token_ids"].list.len().sum()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for text, ids in answers.select("text", "token_ids").iter_rows():
        assert text == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_token_budget_bounds_each_batch_and_changes_no_answer(tiny_model: Path, requests: Path, tmp_path: Path):
    by_rows = generate_job(tiny_model, requests, tmp_path / "rows", batch_size=4)
    by_tokens = generate_job(tiny_model, requests, tmp_path / "out", batch_size=4, batch_tokens=100)

    run_generate(by_rows, progress(tmp_path))
    run_generate(by_tokens, progress(tmp_path))

    found = shards(by_tokens.out)
    assert len(found) > len(shards(by_rows.out))
    for shard in found:
        assert shard.height == 1 or shard.height * (shard["input_tokens"].max() + by_tokens.max_tokens) <= 100
    assert pl.concat(found).equals(pl.concat(shards(by_rows.out)))


def test_progress_says_how_fast_it_is_and_when_it_ends(tiny_model: Path, requests: Path, tmp_path: Path):
    job = generate_job(tiny_model, requests, tmp_path / "out", batch_size=2)
    run_generate(job, progress(tmp_path))

    text = (tmp_path / "out" / "progress.jsonl").read_text()
    lines = [ProgressLine.model_validate_json(line) for line in text.splitlines()]

    assert [line.done for line in lines] == [0, 2, 4, 6]
    assert lines[0].metrics == {}
    assert all(line.metrics["tokens_per_second"] > 0 for line in lines[1:])
    assert [line.metrics["seconds_left"] > 0 for line in lines[1:]] == [True, True, False]


def test_out_of_memory_names_what_to_lower(
    tiny_model: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(transformers_local, "generate", too_much)
    job = generate_job(tiny_model, requests, tmp_path / "out", batch_size=4)
    with pytest.raises(TeacherError, match=r"with 4 prompts of up to \d+ tokens.*teacher.batch_size or .*batch_tokens"):
        run_generate(job, progress(tmp_path))


def test_a_second_start_answers_only_what_is_missing_and_overwrites_nothing(
    tiny_model: Path, requests: Path, tmp_path: Path
):
    job = generate_job(tiny_model, requests, tmp_path / "out", batch_size=2)
    run_generate(job, progress(tmp_path))
    whole = pl.concat(shards(job.out)).sort("request_key")
    (job.out / "shard-00001.parquet").unlink()  # as if killed between shards

    result = run_generate(job, progress(tmp_path))

    assert (result["answered"], result["reused"]) == (2, 4)
    assert sorted(path.name for path in job.out.glob("shard-*")) == [f"shard-0000{n}.parquet" for n in (0, 2, 3)]
    assert pl.concat(shards(job.out)).sort("request_key").equals(whole)


def test_when_nothing_is_missing_no_model_is_loaded(requests: Path, tiny_model: Path, tmp_path: Path):
    job = generate_job(tiny_model, requests, tmp_path / "out")
    run_generate(job, progress(tmp_path))
    gone = generate_job(tmp_path / "no model", requests, tmp_path / "out")
    assert run_generate(gone, progress(tmp_path))["answered"] == 0


def test_a_request_written_twice_is_answered_once(requests: Path, tiny_model: Path, tmp_path: Path):
    frame = pl.read_parquet(requests)
    pl.concat([frame, frame]).write_parquet(requests)
    job = generate_job(tiny_model, requests, tmp_path / "out")
    run_generate(job, progress(tmp_path))
    assert pl.concat(shards(job.out)).height == frame.height


def test_a_missing_teacher_is_named(requests: Path, tmp_path: Path):
    job = generate_job(tmp_path / "no model", requests, tmp_path / "out")
    with pytest.raises(TeacherError, match=r"no model: cannot be loaded"):
        run_generate(job, progress(tmp_path))
