"""Looks over requests before any is asked: how many are new, stored or on their way, and what the new ones can cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from distill_dagster.errors import PlanError
from distill_dagster.teachers.asking.requests import Requests
from distill_dagster.teachers.store.responses import ResponseStore

HEX_DIGITS = 16


@dataclass(frozen=True)
class Survey:
    """What became of some requests so far.

    Attributes:
        needed: distinct requests.
        stored: those with an answer.
        in_batches: those travelling in a provider batch.
        missing: those that have to be asked.
        missing_bytes: size of the missing ones' conversations.
        most_microusd: the most the missing ones can cost.
    """

    needed: int = 0
    stored: int = 0
    in_batches: int = 0
    missing: int = 0
    missing_bytes: int = 0
    most_microusd: int = 0


def survey(
    store: ResponseStore, requests: Requests, most_microusd: Callable[[pl.DataFrame], pl.Series] | None = None
) -> Survey:
    """Goes through all requests once; memory grows by eight bytes a request.

    Args:
        store: where answers are.
        requests: request_key, messages.
        most_microusd: the most each request can cost.
    """
    needed = stored = in_batches = missing = missing_bytes = most = 0
    for chunk in distinct(requests):
        unanswered, new = _sorted_out(store, chunk)
        needed += len(chunk)
        stored += len(chunk) - unanswered
        in_batches += unanswered - len(new)
        missing += len(new)
        missing_bytes += int(new["messages"].str.len_bytes().sum())
        if most_microusd is not None and len(new):
            most += int(most_microusd(new).sum())
    return Survey(needed, stored, in_batches, missing, missing_bytes, most)


def check_plan(missing: int, most_calls: int | None) -> None:
    """Makes sure that no more is asked than was planned.

    Raises:
        PlanError: more requests are missing.
    """
    if most_calls is not None and missing > most_calls:
        raise PlanError(
            f"{missing:,} requests have no answer, and the plan has {most_calls:,}: since it was made, the source or "
            "the response store changed. Nothing was asked; run again to plan anew"
        )


def open_requests(store: ResponseStore, requests: Requests) -> Iterator[pl.DataFrame]:
    """The distinct requests that have no answer and travel in no batch, a chunk at a time."""
    for chunk in distinct(requests):
        _, found = _sorted_out(store, chunk)
        if len(found):
            yield found


def _sorted_out(store: ResponseStore, chunk: pl.DataFrame) -> tuple[int, pl.DataFrame]:
    """How many requests of a chunk have no answer, and those of them that travel in no batch either."""
    unanswered = store.missing(chunk["request_key"])
    travelling = store.in_batches(unanswered)
    found = chunk.filter(pl.col("request_key").is_in(unanswered.implode()))
    return len(unanswered), found.filter(~pl.col("request_key").is_in(travelling.implode()))


def distinct(requests: Requests) -> Iterator[pl.DataFrame]:
    """The chunks without requests that came before."""
    seen = Seen()
    for chunk in requests:
        fresh = seen.fresh(chunk)
        if len(fresh):
            yield fresh


class Seen:
    """The requests met so far, told apart by the first 64 bits of their keys; eight bytes each.

    They lie in sorted runs, each at least twice as long as the next, so that adding a few sorts few.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def fresh(self, requests: pl.DataFrame) -> pl.DataFrame:
        """Those that were not met before, each once, in their order; from now on they are met.

        Args:
            requests: request_key, and any other columns.
        """
        own = requests.unique("request_key", keep="first", maintain_order=True)
        heads = own["request_key"].str.slice(0, HEX_DIGITS).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
        order = np.argsort(heads)  # in order, what is looked up next lies near what was looked up last
        ordered = heads[order]
        known = np.zeros(len(heads), dtype=bool)
        for run in self._runs:
            known[order] |= run[np.searchsorted(run, ordered).clip(max=len(run) - 1)] == ordered
        if known.any():
            own, ordered = own.filter(pl.Series(~known)), ordered[~known[order]]
        if len(ordered):
            self._add(ordered)
        return own

    def _add(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)
