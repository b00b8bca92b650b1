"""The queue of the local teacher: what is in it, in which order, and in which batches."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.teachers.local import request_queue
from distill_dagster.teachers.local.request_queue import (
    Batch,
    OpenRequests,
    Queue,
    batch_sizes,
    chunk_sizes,
    encode_requests,
)

LENGTHS = st.lists(st.integers(1, 50), max_size=40).map(
    lambda lengths: pl.Series(sorted(lengths, reverse=True), dtype=pl.Int32)
)


def write_requests(path: Path, lengths: dict[str, int]) -> Path:
    """Requests whose prompts have so many tokens."""
    texts = [json.dumps([{"role": "user", "content": "x" * length}]) for length in lengths.values()]
    pl.DataFrame({"request_key": list(lengths), "messages": texts}).write_parquet(path)
    return path


def keys(queue: Queue) -> list[str]:
    return queue.rows["request_key"].to_list()


def encode(messages: list[dict[str, str]]) -> list[int]:
    return [7] * len(messages[0]["content"])


def test_the_queue_is_longest_first_then_by_key(tmp_path: Path):
    path = write_requests(tmp_path / "requests.parquet", {"d": 2, "a": 1, "c": 3, "b": 2})
    queue = encode_requests(OpenRequests.of(path, []), encode)
    assert keys(queue) == ["c", "b", "d", "a"]
    assert queue.lengths.to_list() == [3, 2, 2, 1]


def test_what_is_answered_or_written_twice_is_not_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_queue, "_ENCODE_ROWS", 2)
    path = write_requests(tmp_path / "requests.parquet", {f"k{number}": number for number in range(1, 6)})
    frame = pl.read_parquet(path)
    pl.concat([frame, frame.reverse()]).write_parquet(path)

    requests = OpenRequests.of(path, ["k2", "k5", "of another file"])

    assert (requests.total, requests.answered, requests.count) == (5, 2, 3)
    assert keys(encode_requests(requests, encode)) == ["k4", "k3", "k1"]


def test_a_file_without_open_requests_has_an_empty_queue(tmp_path: Path):
    path = write_requests(tmp_path / "requests.parquet", {"a": 1})
    requests = OpenRequests.of(path, ["a"])
    assert requests.count == 0
    assert list(encode_requests(requests, encode).batches([])) == []


def test_messages_are_read_a_slice_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_queue, "_ENCODE_ROWS", 3)
    path = write_requests(tmp_path / "requests.parquet", {f"k{number}": 1 + number % 4 for number in range(10)})
    assert len(keys(encode_requests(OpenRequests.of(path, []), encode))) == 10


def test_a_batch_has_the_tokens_of_its_own_requests(tmp_path: Path):
    path = write_requests(tmp_path / "requests.parquet", {"a": 1, "b": 3, "c": 2, "d": 2})
    queue = encode_requests(OpenRequests.of(path, []), lambda messages: list(range(len(messages[0]["content"]))))
    assert list(queue.batches([3, 1])) == [
        Batch(["b", "c", "d"], [[0, 1, 2], [0, 1], [0, 1]]),
        Batch(["a"], [[0]]),
    ]


@given(lengths=LENGTHS, batch_size=st.integers(1, 9), budget=st.integers(1, 300), max_tokens=st.integers(1, 30))
def test_every_batch_obeys_both_limits_and_is_as_large_as_they_allow(
    lengths: pl.Series, batch_size: int, budget: int, max_tokens: int
):
    sizes = list(batch_sizes(lengths, batch_size=batch_size, batch_tokens=budget, max_tokens=max_tokens))

    assert sum(sizes) == len(lengths)
    start = 0
    for rows in sizes:
        width = lengths[start] + max_tokens
        assert 1 <= rows <= batch_size
        assert rows == 1 or rows * width <= budget
        assert rows == batch_size or start + rows == len(lengths) or (rows + 1) * width > budget
        start += rows


@given(lengths=LENGTHS, batch_size=st.integers(1, 9))
def test_without_a_token_budget_the_queue_is_cut_by_rows_alone(lengths: pl.Series, batch_size: int):
    sizes = list(batch_sizes(lengths, batch_size=batch_size, batch_tokens=None, max_tokens=5))
    assert sizes == [part.height for part in lengths.to_frame().iter_slices(batch_size) if part.height]
    assert sizes == list(chunk_sizes(len(lengths), batch_size))


def test_short_prompts_fill_the_budget_with_more_rows():
    lengths = pl.Series([90, 40, 40, 15, 15, 15, 15, 15])
    assert list(batch_sizes(lengths, batch_size=4, batch_tokens=100, max_tokens=10)) == [1, 2, 4, 1]
