"""Capturing from a vLLM server, over real HTTP: the same targets as from the local model behind it."""

import json
import re

import numpy as np
import pytest

from distill_dagster.errors import LogitsError, UnavailableError
from distill_dagster.jobs import CaptureJob, LogprobServer
from distill_dagster.logits import server as capturing_server
from distill_dagster.logits.capture import run_capture
from distill_dagster.logits.prompt_logprobs import read_answer
from distill_dagster.logits.server import run_server_capture
from distill_dagster.logits.sparse import ids_hash
from distill_dagster.teachers.local.chat_model import end_of_turn_id
from tests.fakes.logprob_server import KEY, MODEL, logprob_server, refusing
from tests.fakes.openai_server import Reset
from tests.logits.capturing import (
    SAMPLE,
    TOP_K,
    capture_job,
    captured,
    load_tiny,
    progress_of,
    sequence_rows,
    write_sequences,
)

SERVED = TOP_K.model_copy(update={"source": "server", "dtype": "server", "draws": None})


@pytest.fixture(scope="module")
def chat(tiny_model):
    return load_tiny(tiny_model)


@pytest.fixture
def served(chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with logprob_server(chat) as server:
        yield server


@pytest.fixture
def job(chat, served, tiny_model, tmp_path) -> CaptureJob:
    """Seven sequences, asked for three at a time."""
    sequences = write_sequences(tmp_path / "sequences.parquet", sequence_rows(chat))
    (tmp_path / "out").mkdir()
    server = LogprobServer(base_url=served.url, model=MODEL, concurrency=3)
    return capture_job(tiny_model, sequences, tmp_path / "out", SERVED, server=server)


def run(job: CaptureJob) -> dict:
    return run_server_capture(job, progress_of(job))


def test_a_server_gives_what_its_model_gives_here(chat, served, job, tmp_path):
    (tmp_path / "local").mkdir()
    local = job.model_copy(
        update={"out": tmp_path / "local", "identity": TOP_K.model_copy(update={"draws": None}), "server": None}
    )
    run_capture(local, progress_of(local))

    result = run(job)

    assert (result["sequences"], result["reused"]) == (7, 0)
    theirs, ours = captured(job), captured(local)
    assert theirs.keys() == ours.keys()
    for key in theirs:
        assert theirs[key].ids_hash == ours[key].ids_hash
        assert np.array_equal(theirs[key].targets.ids, ours[key].targets.ids)
        np.testing.assert_allclose(theirs[key].targets.log_probs, ours[key].targets.log_probs, atol=2e-3, rtol=1e-3)
        np.testing.assert_allclose(theirs[key].targets.log_tail, ours[key].targets.log_tail, atol=2e-3, rtol=1e-3)
        assert theirs[key].hidden is None


def test_an_answer_stored_as_text_is_encoded_with_its_end_of_turn(chat, served, job):
    (row,) = sequence_rows(chat, 1)
    write_sequences(job.sequences, [(*row[:2], None, "It is so.", False)])

    run(job)

    ids = [*chat.tokenizer.encode("It is so.", add_special_tokens=False), end_of_turn_id(chat.tokenizer)]
    assert served.prompts == [[*chat.encode(json.loads(row[1])), *ids]]
    assert captured(job)["key0"].ids_hash == ids_hash(ids)


def test_what_was_captured_is_not_asked_for_again(chat, served, job):
    run(job)
    assert len(served.prompts) == 7
    assert run(job)["reused"] == 7
    assert len(served.prompts) == 7


def test_passing_failures_are_asked_again(served, job):
    served.faults = [refusing(429, retry_after_ms="1"), Reset, refusing(503, retry_after_ms="1")]
    assert run(job)["sequences"] == 7
    assert (served.requests, len(served.prompts)) == (10, 7)


def test_a_server_that_stays_away_keeps_what_was_captured(served, job, monkeypatch):
    monkeypatch.setattr(capturing_server, "ATTEMPTS", 2)
    answer, failing = served.change, refusing(503, retry_after_ms="1")

    def away_after_three(body):
        if len(served.prompts) == 3:
            served.faults = [failing] * 20
        return answer(body)

    served.change = away_after_three

    with pytest.raises(UnavailableError, match=r"no answer after 2 attempts \(HTTP 503\)"):
        run(job)

    assert 3 <= len(captured(job)) <= 5
    served.faults, served.change = [], answer
    run(job)
    assert len(captured(job)) == 7


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusing(401, f"Incorrect key {KEY}"), r"HTTP 401: Incorrect key \[key\]; set OPENAI_API_KEY"),
        (refusing(404, "no such model"), r"no such model; correct teacher\.model"),
    ],
)
def test_a_refusal_ends_the_capture_and_says_what_to_change(served, job, fault, message):
    served.faults = [fault]
    with pytest.raises(LogitsError, match=message) as raised:
        run(job)
    assert KEY not in str(raised.value)
    assert not served.prompts


def test_more_log_probabilities_than_the_server_gives(served, job):
    many = job.model_copy(update={"identity": SERVED.model_copy(update={"k": 32})})
    with pytest.raises(LogitsError, match=r"greater than max allowed: 20.*--max-logprobs 32"):
        run(many)


def test_another_tokenizer_is_refused_by_the_first_token_that_differs(served, job, chat):
    real = served.decode
    served.decode = lambda token_id: real(token_id) + "~"
    with pytest.raises(LogitsError, match=r"token \d+ is '.*~' to the server and '.*' to the tokenizer of .*"):
        run(job)
    assert len(served.prompts) == 1
    assert captured(job) == {}


def test_a_server_without_prompt_logprobs_is_no_vllm(served, job):
    served.change = lambda body: body | {"choices": [{"index": 0, "text": "?"}]}
    with pytest.raises(LogitsError, match="no prompt_logprobs; capturing from a server needs vLLM"):
        run(job)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (SAMPLE, "write `method: topk`"),
        (SERVED.model_copy(update={"temperatures": (1.0, 2.0)}), "temperature 1, not at 1.0, 2.0"),
    ],
)
def test_what_a_server_cannot_give_is_refused_before_it_is_asked(served, job, identity, message):
    with pytest.raises(LogitsError, match=re.escape(message)):
        run(job.model_copy(update={"identity": identity}))
    assert served.requests == 0


def answer_of(*positions: dict[int, tuple[float, int]]) -> bytes:
    """A server's answer whose prompt ends in these positions: (log-probability, rank) by id."""
    entries = [
        {str(name): {"logprob": value, "rank": rank, "decoded_token": "x"} for name, (value, rank) in position.items()}
        for position in positions
    ]
    return json.dumps({"choices": [{"prompt_logprobs": [None, *entries]}]}).encode()


def test_the_tokens_own_entry_beyond_the_best_is_left_out():
    content = answer_of({9: (-5.0, 40), 4: (np.log(0.5), 1), 2: (np.log(0.25), 2)})

    targets = read_answer(content, [9], k=2, vocabulary=10).targets

    assert targets.ids.tolist() == [[2, 4]]
    np.testing.assert_allclose(targets.log_probs, np.log([[0.25, 0.5]]), rtol=1e-6)
    np.testing.assert_allclose(targets.log_tail, np.log([[0.25]]), rtol=1e-6)


def test_no_mass_is_left_where_the_best_have_all_of_it():
    content = answer_of({3: (0.0, 1), 1: (-9999.0, 2)})
    targets = read_answer(content, [3], k=2, vocabulary=10).targets
    assert targets.log_probs.tolist() == [[-np.inf, 0.0]]
    assert targets.log_tail.tolist() == [[-np.inf]]


def test_a_padding_row_of_the_head_is_no_token():
    content = answer_of({1: (np.log(0.75), 1), 12: (np.log(0.125), 2)})
    targets = read_answer(content, [1], k=2, vocabulary=10).targets
    assert targets.ids.tolist() == [[0, 1]]
    np.testing.assert_allclose(targets.log_probs, [[-np.inf, np.log(0.75)]], rtol=1e-6)
    np.testing.assert_allclose(targets.log_tail, np.log([[0.25]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "no prompt_logprobs"),
        (answer_of({1: (-1.0, 1), 2: (-2.0, 2)}), "not about the token ids"),
        (answer_of({3: (-1.0, 1)}), "1 log-probabilities of a token where 2 were asked for"),
        (b'{"choices": [{"prompt_logprobs": [null, {"3": -1.0, "4": -2.0}]}]}', "are not vLLM's"),
    ],
)
def test_answers_that_are_not_vllms(content, message):
    with pytest.raises(LogitsError, match=message):
        read_answer(content, [3], k=2, vocabulary=10)
