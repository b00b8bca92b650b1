"""Capturing a tiny teacher: what is kept equals a plain reading, however it was batched, interrupted or shared."""

import json

import numpy as np
import pytest
import torch

from distill_dagster.errors import LogitsError
from distill_dagster.jobs import CaptureJob, ModelRef
from distill_dagster.logits import capture, capture_shards
from distill_dagster.logits.capture import run_capture
from distill_dagster.logits.head_file import load_head
from distill_dagster.worker_process import launch_subprocess, run_job
from tests.logits.capturing import (
    SAMPLE,
    TOP_K,
    capture_job,
    captured,
    key_of,
    load_tiny,
    plain_logits,
    progress_of,
    sequence_rows,
    write_sequences,
)


@pytest.fixture(scope="module")
def chat(tiny_model):
    return load_tiny(tiny_model)


@pytest.fixture
def job_of(tiny_model, tmp_path):
    """Makes a job over rows; jobs of different names have folders of their own."""

    def make(rows, name: str = "out", **changes) -> CaptureJob:
        sequences = write_sequences(tmp_path / f"{name}.parquet", rows)
        (tmp_path / name).mkdir(exist_ok=True)
        return capture_job(tiny_model, sequences, tmp_path / name, **changes)

    return make


def run(job: CaptureJob, **options) -> dict:
    return run_capture(job, progress_of(job), **options)


def same_targets(one, other) -> bool:
    pairs = zip(vars(one.targets).values(), vars(other.targets).values(), strict=True)
    step = 2**-10  # of half precision: what rounding may move a kept value by
    return one.ids_hash == other.ids_hash and all(np.allclose(a, b, rtol=step, atol=2e-3) for a, b in pairs)


@pytest.mark.parametrize("share", [True, False], ids=["shared prefix", "apart"])
def test_captured_targets_are_those_of_a_plain_reading(chat, job_of, share):
    rows = sequence_rows(chat)
    job = job_of(rows, identity=TOP_K.model_copy(update={"temperatures": (1.0, 2.0)}))

    result = run(job, share=share)

    found = captured(job)
    assert {(one.request_key, one.ids_hash) for one in found.values()} == {key_of(row) for row in rows}
    for row in rows:
        logits, targets = plain_logits(chat, row), found[row[0]].targets
        ids = torch.from_numpy(targets.ids).long()
        assert torch.equal(ids, logits.float().topk(5).indices.sort(-1).values)
        for index, temperature in enumerate((1.0, 2.0)):
            log_p = (logits / temperature).log_softmax(-1)
            tail = log_p.scatter(1, ids, -torch.inf).logsumexp(-1)
            np.testing.assert_allclose(targets.log_tail[:, index], tail, rtol=1e-3, atol=1e-3)
            head = (targets.log_probs + targets.log_z_one[:, None]) / temperature - targets.log_z[:, [index]]
            np.testing.assert_allclose(head, log_p.gather(1, ids), rtol=1e-3, atol=1e-3)
        assert (targets.tail_counts >= 1).all()
        assert targets.tail_counts.sum() > len(row[2])
        kept = np.repeat(targets.ids, targets.tail_counts, axis=0)
        assert not (targets.tail_ids[:, None] == kept).any()
    tokens = sum(len(row[2]) for row in rows)
    assert (result["sequences"], result["tokens"], result["reused"], result["over_context"]) == (7, tokens, 0, 0)
    assert result["bytes"] == sum(path.stat().st_size for path in job.out.glob("logits-*.parquet"))
    assert result["measurements"].keys() == {"seconds", "tokens_per_second", "peak_memory_bytes"}


def test_batches_and_chunks_change_nothing(chat, job_of, monkeypatch):
    rows = sequence_rows(chat)
    whole, pieces = job_of(rows, "whole", batch_tokens=100_000), job_of(rows, "pieces", batch_tokens=1)

    run(whole)
    monkeypatch.setattr(capture, "CHUNK_POSITIONS", 3)
    run(pieces)

    one, other = captured(whole), captured(pieces)
    assert all(same_targets(one[key], other[key]) for key in one)


def test_draws_do_not_depend_on_the_batch_but_on_the_seed(chat, job_of, monkeypatch):
    rows = sequence_rows(chat)
    whole = job_of(rows, "whole", identity=SAMPLE, batch_tokens=100_000)
    alone = job_of(rows[2:3], "alone", identity=SAMPLE, batch_tokens=1)
    reseeded = job_of(rows[2:3], "reseeded", identity=SAMPLE, seed=18)

    run(whole)
    monkeypatch.setattr(capture, "CHUNK_POSITIONS", 3)
    for job in (alone, reseeded):
        run(job)

    mine, again, other = (captured(job)["key2"].targets for job in (whole, alone, reseeded))
    assert all(np.array_equal(a, b) for a, b in zip(vars(mine).values(), vars(again).values(), strict=True))
    assert not np.array_equal(mine.ids, other.ids)
    assert not np.array_equal(mine.distinct[0], mine.distinct[1])


def test_drawn_ids_are_likely_ones(chat, job_of):
    rows = sequence_rows(chat, 3)
    job = job_of(rows, identity=SAMPLE)

    run(job)

    for row in rows:
        targets, p = captured(job)[row[0]].targets, plain_logits(chat, row).softmax(-1).numpy()
        place = np.repeat(np.tile(np.arange(len(p)), 2), targets.distinct.reshape(-1))
        weights = targets.counts / 20
        assert (weights * p[place, targets.ids]).sum() == pytest.approx(2 * (p**2).sum(), rel=0.15)


def test_a_kept_hidden_state_and_the_saved_head_give_the_logits_again(chat, job_of):
    rows = sequence_rows(chat, keep_hidden=lambda number: number == 4)
    job = job_of(rows)

    run(job)

    found = captured(job)
    assert [key for key in sorted(found) if found[key].hidden is not None] == ["key4"]
    head = load_head(job.out)
    logits = head.hidden(found["key4"].hidden) @ head.weight.T * head.scale
    assert (head.vocabulary, head.bias, head.softcap) == (len(chat.tokenizer), None, None)
    torch.testing.assert_close(logits.double(), plain_logits(chat, rows[4]), rtol=1e-4, atol=1e-4)


def test_no_head_is_written_where_nothing_keeps_hidden_states(chat, job_of):
    job = job_of(sequence_rows(chat, 2))
    run(job)
    assert sorted(path.name for path in job.out.iterdir()) == ["logits-00000.parquet", "progress.jsonl"]


def test_a_capture_goes_on_where_it_was_interrupted(chat, job_of, monkeypatch):
    rows = sequence_rows(chat)
    whole, job = job_of(rows, "whole"), job_of(rows)
    run(whole)
    monkeypatch.setattr(capture_shards, "SHARD_SEQUENCES", 2)
    real, written = capture_shards.write_shard, []

    def interrupted(path, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        real(path, *arguments)
        written.append(path)

    monkeypatch.setattr(capture_shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(job)
    before = {path: path.read_bytes() for path in written}
    monkeypatch.setattr(capture_shards, "write_shard", real)

    result = run(job)

    assert (result["reused"], result["sequences"]) == (4, 3)
    assert all(path.read_bytes() == content for path, content in before.items())
    one, other = captured(whole), captured(job)
    assert one.keys() == other.keys()
    assert all(same_targets(one[key], other[key]) for key in one)
    lines = [json.loads(line) for line in (job.out / "progress.jsonl").read_text().splitlines()]
    told = [(line["stage"], line["done"], line["total"]) for line in lines]
    assert ("capture", 4, 7) in told, "what is there already counts from the start"
    assert told[-1] == ("capture", 7, 7)


def test_equal_sequences_are_captured_once_and_another_completion_of_a_request_by_itself(chat, job_of):
    rows = sequence_rows(chat, 2)
    another = (*rows[0][:2], rows[0][2][:2], "cut", False)
    job = job_of([rows[0], rows[1], rows[0], another])
    assert run(job)["sequences"] == 3


def test_a_sequence_longer_than_the_context_is_counted_and_never_cut(chat, job_of):
    short, long = sequence_rows(chat, 2)
    long = (long[0], long[1], long[2] * 200, long[3], False)
    job = job_of([short, long])

    result = run(job)

    assert (result["over_context"], result["over_context_keys"]) == (1, ["key1"])
    assert captured(job).keys() == {"key0"}


def test_shards_of_another_capture_are_refused(chat, job_of):
    job = job_of(sequence_rows(chat, 2))
    run(job)
    other = job.model_copy(update={"identity": TOP_K.model_copy(update={"tokenizer": "another"})})
    with pytest.raises(LogitsError, match="tokenizer"):
        run(other)


def test_a_completion_without_token_ids_is_refused(chat, job_of):
    (row,) = sequence_rows(chat, 1)
    with pytest.raises(LogitsError, match=r"no token ids.*teacher_outputs"):
        run(job_of([(*row[:2], None, *row[3:])]))


def test_too_little_memory_says_what_to_lower(chat, job_of, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(capture, "hidden_before", no_memory)
    with pytest.raises(LogitsError, match=r"out of memory with . sequences .* lower logits\.batch_tokens \(400 now\)"):
        run(job_of(sequence_rows(chat)))


def test_rows_of_the_head_that_are_no_tokens_have_no_mass(chat, tiny_model, job_of, tmp_path):
    padded = load_tiny(tiny_model).model
    padded.resize_token_embeddings(len(chat.tokenizer) + 16, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[-16:] = 10.0
    padded.save_pretrained(tmp_path / "padded")
    chat.tokenizer.save_pretrained(tmp_path / "padded")
    rows = sequence_rows(chat, 3, keep_hidden=lambda _number: True)
    whole = job_of(rows, "whole")
    job = job_of(rows).model_copy(update={"model": ModelRef(source=str(tmp_path / "padded"))})

    run(whole)
    run(job)

    one, other = captured(whole), captured(job)
    assert all(same_targets(one[key], other[key]) for key in one)
    assert load_head(job.out).vocabulary == len(chat.tokenizer)


def test_the_worker_does_the_job(chat, job_of):
    job = job_of(sequence_rows(chat, 2))
    run_job(job, launch_subprocess)
    assert captured(job).keys() == {"key0", "key1"}
    assert json.loads((job.out / "result.json").read_text())["sequences"] == 2
