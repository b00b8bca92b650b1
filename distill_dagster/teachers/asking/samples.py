"""Which samples of a prompt are asked: the first of every prompt, and the others only where the first was not refused.

A refused prompt is never sent again under another guise, and a further sample would be one.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from distill_dagster.project import Distillation
from distill_dagster.teachers.asking.requests import Requests, prompt_chunks, with_samples
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, ResponseStatus, TeacherIdentity
from distill_dagster.teachers.store.responses import ResponseStore

NOT_ASKED = "first_sample_refused"


class FirstSamples:
    """The requests of some partitions' first samples."""

    def __init__(self, distillation: Distillation, partitions: Sequence[str], identity: TeacherIdentity) -> None:
        self._distillation = distillation
        self._partitions = partitions
        self._identity = identity

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for partition in self._partitions:
            for prompts in prompt_chunks(self._distillation, partition, ["messages"]):
                yield with_samples(prompts, [0], self._identity).select(REQUEST_COLUMNS)


class LaterSamples:
    """The requests of the further samples, of prompts whose first one was answered."""

    def __init__(
        self,
        distillation: Distillation,
        partitions: Sequence[str],
        identity: TeacherIdentity,
        store: ResponseStore,
        samples: int,
    ) -> None:
        self._distillation = distillation
        self._partitions = partitions
        self._identity = identity
        self._store = store
        self._samples = range(1, samples)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for partition in self._partitions:
            for prompts in prompt_chunks(self._distillation, partition, ["messages"]):
                answered = answered_prompts(prompts, self._identity, self._store)
                yield with_samples(answered, self._samples, self._identity).select(REQUEST_COLUMNS)


def answered_prompts(prompts: pl.DataFrame, identity: TeacherIdentity, store: ResponseStore) -> pl.DataFrame:
    """The prompts whose first sample has an answer that is no refusal."""
    first = with_samples(prompts, [0], identity)
    answers = store.fetch(first["request_key"].unique()).filter(pl.col("status") != ResponseStatus.REFUSED.value)
    return first.join(answers, on="request_key", how="semi").drop("sample", "request_key")


def requests_of(
    distillation: Distillation,
    partitions: Sequence[str],
    identity: TeacherIdentity,
    store: ResponseStore,
) -> list[Requests]:
    """What is asked for some partitions, in rounds: each round can be known when the one before is answered."""
    rounds: list[Requests] = [FirstSamples(distillation, partitions, identity)]
    samples = distillation.spec.teacher.samples
    if samples > 1:
        rounds.append(LaterSamples(distillation, partitions, identity, store, samples))
    return rounds


def join_answers(prompts: pl.DataFrame, samples: int, identity: TeacherIdentity, store: ResponseStore) -> pl.DataFrame:
    """Every sample of the prompts with its answer; `status` is null where there is none yet.

    Args:
        prompts: PROMPT columns.
        samples: how many each prompt has.

    Returns:
        The prompts' columns, `sample` and the answers' FETCHED columns, in order of prompt and sample.
    """
    rows = with_samples(prompts, range(samples), identity)
    answers = store.fetch(rows["request_key"].unique())
    joined = rows.join(answers, on="request_key", how="left", maintain_order="left")
    if samples == 1:
        return joined
    refused = joined.filter((pl.col("sample") == 0) & (pl.col("status") == ResponseStatus.REFUSED.value))
    not_asked = pl.col("status").is_null() & pl.col("prompt_id").is_in(refused["prompt_id"].implode())
    zero = pl.lit(0, dtype=pl.Int64)
    return joined.with_columns(
        status=pl.when(not_asked).then(pl.lit(ResponseStatus.REFUSED.value)).otherwise("status"),
        detail=pl.when(not_asked).then(pl.lit(NOT_ASKED)).otherwise("detail"),
        **{
            name: pl.when(not_asked).then(zero).otherwise(name)
            for name in ("input_tokens", "output_tokens", "cost_microusd")
        },
    )
