"""The teacher calls that prompts need: their request keys, looked up in the response store, which is only read."""

from collections.abc import Iterator, Mapping
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
    distillation: Distillation, teacher: Teacher, due: Mapping[str, PlacedRows], store: ResponseStore | None
) -> CallPlan:
    """Counts the calls of some partitions, a partition in memory at a time.

    Args:
        due: partitions whose answers are not those of their prompts.
        store: where answers are; None where there is no store yet.
    """
    found = CallPlan(Missing(teacher))
    seen = Seen()
    for name, placed in due.items():
        calls = TeacherCalls()
        for requests in _requests(placed, distillation.spec.teacher.samples, teacher, store):
            calls += _count(found, seen.fresh(requests), store)
        found.partitions[name] = calls
    return found


def _requests(
    placed: PlacedRows, samples: int, teacher: Teacher, store: ResponseStore | None
) -> Iterator[pl.DataFrame]:
    """REQUEST columns of all samples, without further ones of prompts whose first is refused."""
    prompts = pl.concat([placed.kept(["messages"]), placed.fresh.select("messages")])
    for chunk in prompts.iter_slices(CHUNK_ROWS):
        first = with_samples(chunk, [0], teacher.identity)
        yield first.select(REQUEST_COLUMNS)
        if samples > 1:
            refused = store.refused(first["request_key"]) if store is not None else first["request_key"].clear()
            rest = first.filter(~pl.col("request_key").is_in(refused.implode())).select("messages")
            yield with_samples(rest, range(1, samples), teacher.identity).select(REQUEST_COLUMNS)


def _count(found: CallPlan, requests: pl.DataFrame, store: ResponseStore | None) -> TeacherCalls:
    keys = requests["request_key"]
    unanswered = store.missing(keys) if store is not None else keys
    travelling = store.in_batches(unanswered) if store is not None else keys.clear()
    needed = requests.filter(
        pl.col("request_key").is_in(unanswered.implode()) & ~pl.col("request_key").is_in(travelling.implode())
    )
    if len(needed):
        found.missing.add(needed)
    stored = len(requests) - len(unanswered)
    if stored and sum(map(len, found.answered)) < USUAL_SAMPLE:
        answered = requests.filter(~pl.col("request_key").is_in(unanswered.implode()))
        found.answered.append(answered.head(USUAL_SAMPLE))
    return TeacherCalls(needed=len(needed), stored=stored, in_batches=len(travelling))
