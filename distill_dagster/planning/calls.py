"""The teacher calls that prompts need: their request keys, looked up in the response store, which is only read."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from distill_dagster.planning.model import TeacherCalls
from distill_dagster.project import Distillation
from distill_dagster.prompts.placed import PlacedRows
from distill_dagster.teachers.asking.requests import with_samples
from distill_dagster.teachers.asking.survey import Seen
from distill_dagster.teachers.money.input_tokens import Missing
from distill_dagster.teachers.outputs import answered_keys
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
        partitions: calls by partition; a request that two of them need counts once.
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
    def has_sample(self) -> bool:
        """Whether enough stored requests are known to tell how long answers usually are."""
        return sum(map(len, self.answered)) >= USUAL_SAMPLE

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
    """Counts the calls of some partitions, a few partitions in memory at a time.

    Args:
        due: partitions whose answers are not those of their prompts.
        store: where answers are; None where there is no store yet.
        answered: those of them whose stored prompts have all their answers from this teacher. What removes an answer
            (`distill forget`) removes the versions that have it, so of prompts that are unchanged a few are looked up;
            all, where one of these is missing.
    """
    found = CallPlan(Missing(teacher), dict.fromkeys(due, TeacherCalls()))
    seen = Seen()
    samples = distillation.spec.teacher.samples
    for some in _together(due):
        trusted = [name for name in some if name in answered] if samples == 1 and found.has_sample else []
        stored = _surely_stored(distillation, some, trusted, store) if store is not None else {}
        for name, requests in stored.items():
            found.partitions[name] += TeacherCalls(stored=len(seen.fresh(requests)))
        for requests in _requests(_prompts(some, stored), samples, teacher, store):
            _count(found, seen.fresh(requests), store)
    return found


def _together(due: Mapping[str, PlacedRows]) -> Iterator[dict[str, PlacedRows]]:
    """Small partitions come together: looking up few requests takes about as long as looking up many."""
    some: dict[str, PlacedRows] = {}
    rows = 0
    for name, placed in due.items():
        some[name] = placed
        rows += placed.rows
        if rows >= CHUNK_ROWS:
            yield some
            some, rows = {}, 0
    if some:
        yield some


def _surely_stored(
    distillation: Distillation, some: Mapping[str, PlacedRows], trusted: Sequence[str], store: ResponseStore
) -> dict[str, pl.DataFrame]:
    """request_key of the unchanged prompts of trusted partitions whose first few requests are stored, by partition."""
    keys = {name: _kept_keys(distillation, name, some[name]) for name in trusted}
    if not keys:
        return {}
    probes = {name: own["request_key"].head(PROBED) for name, own in keys.items()}
    lost = store.missing(pl.concat(probes.values()))
    return {name: own for name, own in keys.items() if not probes[name].is_in(lost.implode()).any()}


def _kept_keys(distillation: Distillation, name: str, placed: PlacedRows) -> pl.DataFrame:
    """request_key of a partition's unchanged prompts, as its answers have them: neither read nor hashed again."""
    keys = answered_keys(distillation, name)
    return keys if len(placed.known) == len(keys) else keys.join(placed.kept(["prompt_id"]), on="prompt_id", how="semi")


def _prompts(some: Mapping[str, PlacedRows], stored: Collection[str]) -> pl.DataFrame:
    """partition and messages of all prompts; of partitions in `stored`, only those that are new or changed."""
    parts = [pl.DataFrame(schema={"messages": pl.String, "partition": pl.String})]
    for name, placed in some.items():
        kept = [] if name in stored else [placed.kept(["messages"])]
        parts += [one.with_columns(partition=pl.lit(name)) for one in (*kept, placed.fresh.select("messages"))]
    return pl.concat(parts)


def _requests(
    prompts: pl.DataFrame, samples: int, teacher: Teacher, store: ResponseStore | None
) -> Iterator[pl.DataFrame]:
    """REQUEST columns of all samples, without further ones of prompts whose first is refused; the prompts' columns."""
    for chunk in prompts.iter_slices(CHUNK_ROWS):
        first = with_samples(chunk, [0], teacher.identity)
        yield first
        if samples > 1:
            refused = store.refused(first["request_key"]) if store is not None else first["request_key"].clear()
            rest = first.filter(~pl.col("request_key").is_in(refused.implode())).select(prompts.columns)
            yield with_samples(rest, range(1, samples), teacher.identity)


def _count(found: CallPlan, requests: pl.DataFrame, store: ResponseStore | None) -> None:
    keys = requests["request_key"]
    unanswered = store.missing(keys) if store is not None else keys
    travelling = store.in_batches(unanswered) if store is not None else keys.clear()
    is_unanswered = pl.col("request_key").is_in(unanswered.implode())
    marked = requests.with_columns(
        is_stored=~is_unanswered, in_batch=is_unanswered & pl.col("request_key").is_in(travelling.implode())
    )
    counts = marked.group_by("partition").agg(pl.len(), pl.col("is_stored").sum(), pl.col("in_batch").sum())
    for name, every, stored, in_batches in counts.iter_rows():
        calls = TeacherCalls(needed=every - stored - in_batches, stored=stored, in_batches=in_batches)
        found.partitions[name] += calls
    needed = marked.filter(~pl.col("is_stored") & ~pl.col("in_batch"))
    if len(needed):
        found.missing.add(needed.select(REQUEST_COLUMNS))
    _remember_answered(found, marked.filter("is_stored"))


def _remember_answered(found: CallPlan, requests: pl.DataFrame) -> None:
    if len(requests) and not found.has_sample:
        found.answered.append(requests.select(REQUEST_COLUMNS).head(USUAL_SAMPLE))
