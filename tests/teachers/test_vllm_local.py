"""The vLLM engine against a strict stand-in: the same answers as transformers, in shards that survive a kill."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from transformers import AutoTokenizer

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import GenerateJob, ModelRef
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.teachers.local import transformers_local, vllm_local
from distill_dagster.teachers.local.chat_model import load_chat_format, load_chat_model
from distill_dagster.teachers.local.shards import SHARD_SCHEMA
from tests.fakes.fake_vllm import fake_vllm
from tests.worker_jobs import QUESTIONS, generate_job, messages


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = fake_vllm()
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in vllm_local.ENVIRONMENT:
        monkeypatch.setenv(name, "as the user wants it")
    return module


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    keys = [f"key{index}" for index in range(len(QUESTIONS))]
    frame = pl.DataFrame({"request_key": keys, "messages": [messages(question) for question in QUESTIONS]})
    frame.write_parquet(tmp_path / "requests.parquet")
    return tmp_path / "requests.parquet"


def answers(job: GenerateJob) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in job.out.glob("shard-*.parquet")).sort("request_key")


def by_vllm(job: GenerateJob) -> pl.DataFrame:
    vllm_local.run_generate(job, ProgressWriter(job.out / "progress.jsonl"))
    return answers(job)


def by_transformers(job: GenerateJob) -> pl.DataFrame:
    transformers_local.run_generate(job, ProgressWriter(job.out / "progress.jsonl"))
    return answers(job)


@pytest.mark.parametrize("max_tokens", [3, 64])
def test_both_engines_give_the_same_answers(
    vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path, max_tokens: int
):
    mine = generate_job(tiny_model, requests, tmp_path / "vllm", max_tokens=max_tokens)
    theirs = generate_job(tiny_model, requests, tmp_path / "transformers", max_tokens=max_tokens)

    found = by_vllm(mine)

    assert found.schema == SHARD_SCHEMA
    assert found.equals(by_transformers(theirs))
    assert set(found["stop_reason"]) >= {"max_tokens" if max_tokens == 3 else "end_turn"}


def test_stop_sequences_end_both_engines_at_the_same_token(
    vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path
):
    whole = by_transformers(generate_job(tiny_model, requests, tmp_path / "whole"))
    stops = ["never said", whole["text"][0][4:7], whole["text"][2][-3:]]
    mine = generate_job(tiny_model, requests, tmp_path / "vllm", stop_sequences=stops)
    theirs = generate_job(tiny_model, requests, tmp_path / "transformers", stop_sequences=stops)

    found = by_vllm(mine)

    assert "stop_sequence" in set(found["stop_reason"])
    assert found.equals(by_transformers(theirs))


def test_the_stop_token_is_kept_and_is_no_text(vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path):
    found = by_vllm(generate_job(tiny_model, requests, tmp_path / "out", max_tokens=64))
    ended = found.filter(pl.col("stop_reason") == "end_turn")
    end = AutoTokenizer.from_pretrained(tiny_model).eos_token_id
    assert set(ended["token_ids"].list.last()) == {end}
    assert not ended["text"].str.contains("<|im_end|>", literal=True).any()


def test_vllm_is_asked_for_greedy_answers_in_the_declared_precision(
    vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path
):
    by_vllm(generate_job(tiny_model, requests, tmp_path / "out", max_tokens=20, stop_sequences=["\n\n"]))

    [engine], [sampling] = vllm.calls.engines, vllm.calls.sampling
    longest = pl.read_parquet(next((tmp_path / "out").glob("shard-*")))["input_tokens"].max()
    assert engine == {
        "model": str(tiny_model),
        "revision": None,
        "tokenizer_revision": None,
        "trust_remote_code": False,
        "dtype": "float32",
        "max_model_len": longest + 20,
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.0, 20, ["\n\n"])
    assert set(sampling.stop_token_ids) == load_chat_format(ModelRef(source=str(tiny_model))).stop_ids


def test_an_answer_ends_where_the_context_is_full(vllm: ModuleType, tiny_model: Path, tmp_path: Path):
    chat = load_chat_format(ModelRef(source=str(tiny_model)))
    assert chat.context is not None
    text = "a" * (chat.context // 2)
    while len(chat.encode([{"role": "user", "content": text}])) < chat.context - 4:
        text += "a"
    pl.DataFrame({"request_key": ["long"], "messages": [messages(text)]}).write_parquet(tmp_path / "requests.parquet")
    mine = generate_job(tiny_model, tmp_path / "requests.parquet", tmp_path / "vllm")
    theirs = generate_job(tiny_model, tmp_path / "requests.parquet", tmp_path / "transformers")

    found = by_vllm(mine)

    assert found["output_tokens"][0] <= 4
    assert found.equals(by_transformers(theirs))


def test_a_kill_between_chunks_loses_no_finished_chunk(
    vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vllm_local, "CHUNK_ROWS", 2)
    vllm.calls.fail_at_batch = 2
    job = generate_job(tiny_model, requests, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        by_vllm(job)
    kept = answers(job)
    vllm.calls.fail_at_batch = None

    result = vllm_local.run_generate(job, ProgressWriter(job.out / "progress.jsonl"))

    assert kept.height == 4
    assert (result["answered"], result["reused"]) == (2, 4)
    assert vllm.calls.batches == [2, 2, 2]
    whole = answers(job)
    assert whole.filter(pl.col("request_key").is_in(kept["request_key"].to_list())).equals(kept)
    assert whole["request_key"].to_list() == sorted(pl.read_parquet(requests)["request_key"])


def test_a_request_that_vllm_gives_up_is_no_answer(vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path):
    vllm.calls.finish_reason = "abort"
    job = generate_job(tiny_model, requests, tmp_path / "out")
    with pytest.raises(TeacherError, match=r"gave up a request \(abort\)"):
        by_vllm(job)
    assert not list(job.out.glob("shard-*"))


def test_what_vllm_cannot_load_is_an_error_that_names_the_model(
    vllm: ModuleType, tiny_model: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def too_small(*_: object, **__: object) -> None:
        raise ValueError("No available memory for the cache blocks.")

    monkeypatch.setattr(vllm, "LLM", too_small)
    with pytest.raises(TeacherError, match=r"model: vLLM cannot load or hold it \(No available memory"):
        by_vllm(generate_job(tiny_model, requests, tmp_path / "out"))


def test_without_vllm_one_error_says_what_to_do(
    tiny_model: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        TeacherError, match=r"teacher.engine: vllm needs the package vllm; pip install vllm .* or leave engine out"
    ):
        by_vllm(generate_job(tiny_model, requests, tmp_path / "out"))


def test_the_format_known_without_weights_is_the_loaded_models(tiny_model: Path):
    ref = ModelRef(source=str(tiny_model))
    light, whole = load_chat_format(ref), load_chat_model(ref, "float32")
    assert (light.stop_ids, light.context) == (whole.stop_ids, whole.context)
    (tiny_model / "generation_config.json").rename(tiny_model / "away")
    try:
        assert load_chat_format(ref).stop_ids == load_chat_model(ref, "float32").stop_ids
    finally:
        (tiny_model / "away").rename(tiny_model / "generation_config.json")


def test_the_worker_runs_the_engine_of_the_job(tiny_model: Path, requests: Path, tmp_path: Path):
    """In a process of its own, as in life, with the stand-in put in place before the worker starts."""
    job = generate_job(tiny_model, requests, tmp_path / "out", engine="vllm")
    job.out.mkdir()
    (job.out / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    code = (
        "import sys\n"
        "from tests.fakes.fake_vllm import fake_vllm\n"
        "sys.modules['vllm'] = fake_vllm()\n"
        "from distill_dagster import worker\n"
        "code = worker.main(sys.argv[1:])\n"
        "assert len(sys.modules['vllm'].calls.engines) == 1\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", code, str(job.out / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert answers(job).height == len(QUESTIONS)
