"""The teacher calls that prompts need: their request keys, looked up in the response store, which is only read."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from distill_dagster.planning.model import TeacherCalls
from distill_dagster.project import Distillation
from distill_dagster.prompts.placed import PlacedRows
from distill_dagster.teachers.asking.requests import with_samples
from distill_dagster.teachers.asking.survey import Seen
from distill_dagster.teachers.money.input_tokens import Missing
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, Teacher
from distill_dagster.teachers.store.responses import ResponseStore

# Keys of stored answers that tell how long answers usually are.
USUAL_SAMPLE = 2_000
CHUNK_ROWS = 20_000
# Answers looked up to see that a store is the one that a partition was answered from.
PROBED = 20


@dataclass
class CallPlan:
    """What is to be asked.

    Attributes:
        partitions: calls by partition; a request that two of them need counts where it comes first.
        missing: sizes and prices of the requests that are needed.
        answered: some of the stored requests.
    """

    missing: Missing
    partitions: dict[str, TeacherCalls] = field(default_factory=dict)
    answered: list[pl.DataFrame] = field(default_factory=list)

    @property
    def total(self) -> TeacherCalls:
        """All of them."""
        return sum(self.partitions.values(), TeacherCalls())

    @property
    def most(self) -> int:
        """The most new calls of a run: one that travels in a batch may yet come back unanswered, and be sent again."""
        total = self.total
        return total.needed + total.in_batches


def plan_calls(
    distillation: Distillation,
    teacher: Teacher,
    due: Mapping[str, PlacedRows],
    store: ResponseStore | None,
    answered: Collection[str] = (),
) -> CallPlan:
    """Counts the calls of some partitions, a partition in memory at a time.

    Args:
        due: partitions whose answers are not those of their prompts.
        store: where answers are; None where there is no store yet.
        answered: those of them whose stored prompts have all their answers from this teacher. What removes an answer
            (`distill forget`) removes the versions that have it, so of prompts that are unchanged a few are looked up;
            all, where one of these is missing.
    """
    found = CallPlan(Missing(teacher))
    seen = Seen()
    samples = distillation.spec.teacher.samples
    for name, placed in due.items():
        calls = TeacherCalls()
        kept, fresh = placed.kept(["messages"]), placed.fresh.select("messages")
        trusted = name in answered and samples == 1
        for requests in _requests(kept, samples, teacher, store):
            calls += _count(found, seen.fresh(requests), store, trusted=trusted)
        for requests in _requests(fresh, samples, teacher, store):
            calls += _count(found, seen.fresh(requests), store)
        found.partitions[name] = calls
    return found


def _requests(
    prompts: pl.DataFrame, samples: int, teacher: Teacher, store: ResponseStore | None
) -> Iterator[pl.DataFrame]:
    """REQUEST columns of all samples, without further ones of prompts whose first is refused."""
    for chunk in prompts.iter_slices(CHUNK_ROWS):
        first = with_samples(chunk, [0], teacher.identity)
        yield first.select(REQUEST_COLUMNS)
        if samples > 1:
            refused = store.refused(first["request_key"]) if store is not None else first["request_key"].clear()
            rest = first.filter(~pl.col("request_key").is_in(refused.implode())).select("messages")
            yield with_samples(rest, range(1, samples), teacher.identity).select(REQUEST_COLUMNS)


def _count(
    found: CallPlan, requests: pl.DataFrame, store: ResponseStore | None, *, trusted: bool = False
) -> TeacherCalls:
    keys = requests["request_key"]
    if trusted and store is not None and store.missing(keys.head(PROBED)).is_empty():
        _remember_answered(found, requests)
        return TeacherCalls(stored=len(requests))
    unanswered = store.missing(keys) if store is not None else keys
    travelling = store.in_batches(unanswered) if store is not None else keys.clear()
    open_keys = unanswered.filter(~unanswered.is_in(travelling.implode()))
    if len(open_keys):
        found.missing.add(requests.filter(pl.col("request_key").is_in(open_keys.implode())))
    stored = len(requests) - len(unanswered)
    if stored:
        _remember_answered(found, requests.filter(~pl.col("request_key").is_in(unanswered.implode())))
    return TeacherCalls(needed=len(open_keys), stored=stored, in_batches=len(travelling))


def _remember_answered(found: CallPlan, requests: pl.DataFrame) -> None:
    if sum(map(len, found.answered)) < USUAL_SAMPLE:
        found.answered.append(requests.head(USUAL_SAMPLE))
