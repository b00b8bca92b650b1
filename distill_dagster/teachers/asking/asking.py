"""Gets every request answered once: claims what is missing, stores what comes, waits for others."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
from sqlalchemy import Connection

from distill_dagster.errors import BudgetError, TeacherError
from distill_dagster.progress import Progress, report
from distill_dagster.teachers.asking.requests import Requests
from distill_dagster.teachers.asking.survey import Survey, check_plan, open_requests, survey
from distill_dagster.teachers.protocol import Response, Teacher, Unanswered
from distill_dagster.teachers.store.budget import MICRO, Budget
from distill_dagster.teachers.store.leases import POLL_S, Leases
from distill_dagster.teachers.store.responses import ResponseStore

STAGE = "teacher_outputs"


@dataclass(frozen=True)
class Asked:
    """What came of asking.

    Attributes:
        needed: distinct requests.
        stored: those answered before.
        answered: those this process got answered.
        cost_microusd: what the latter cost.
        in_batches: those that travel in a provider batch and are not answered yet.
    """

    needed: int = 0
    stored: int = 0
    answered: int = 0
    cost_microusd: int = 0
    in_batches: int = 0

    def __add__(self, other: "Asked") -> "Asked":
        return Asked(
            self.needed + other.needed,
            self.stored + other.stored,
            self.answered + other.answered,
            self.cost_microusd + other.cost_microusd,
            self.in_batches + other.in_batches,
        )


class Asking:
    """One call of `ask`: the requests of all partitions of a run, one by one through one teacher."""

    def __init__(
        self,
        store: ResponseStore,
        teacher: Teacher,
        budget: Budget,
        *,
        claim_size: int,
        announce: bool,
        most_calls: int | None = None,
    ) -> None:
        """Args:
        claim_size: requests claimed at a time.
        announce: report progress as answers are stored; a worker that reports its own needs no second voice.
        most_calls: the most requests that may be missing, as a plan counted them; None where there is none.
        """
        self._store = store
        self._teacher = teacher
        self._budget = budget
        self._claim_size = claim_size
        self._announce = announce
        self._most_calls = most_calls
        self._leases = Leases(store.engine)
        self._unsettled: dict[str, int] = {}
        self._answered = 0
        self._cost_microusd = 0
        self._total = 0
        self._out_of_budget: str | None = None

    def ask(self, requests: Requests) -> Asked:
        """Returns when every request has an answer in the store, or travels in a provider batch.

        Args:
            requests: REQUEST columns.

        Raises:
            BudgetError: the budget does not allow the next request; all answers so far are stored.
            TeacherError: the teacher could not be asked, or some requests failed in a way that may pass.
            PlanError: more are missing than were planned; none is asked.
        """
        found = survey(self._store, requests, self._teacher.most_microusd if self._announce else None)
        check_plan(found.missing, self._most_calls)
        if found.missing:
            self._teacher.check()
            self._total = found.missing
            if self._announce:
                report(Progress(STAGE, 0, self._total, "answers", {"at_most_usd": found.most_microusd / MICRO}))
            with self._store.writing() as connection:
                self._budget.settle_stored_in(connection)
            with self._leases.alive():
                found = replace(self._answer(requests), needed=found.needed, stored=found.stored)
        return Asked(found.needed, found.stored, self._answered, self._cost_microusd, found.in_batches)

    def _answer(self, requests: Requests) -> Survey:
        while True:
            before = self._answered
            unanswered = self._teacher.answer(self._claims(requests), self)
            self._give_back(unanswered)
            if unanswered.stop:
                raise unanswered.stop
            if self._out_of_budget and self._answered == before:
                raise BudgetError(self._out_of_budget)
            self._out_of_budget = None  # answers cost less than was reserved for them, so there may be room again
            if len(unanswered):
                raise TeacherError(self._unanswered_message(unanswered))
            left = survey(self._store, requests)
            if not left.missing:
                return left
            if self._answered == before:
                time.sleep(POLL_S)  # another process is asking these

    def _give_back(self, unanswered: Unanswered) -> None:
        with self._store.writing() as connection:
            self._settle_in(connection)
            self._budget.cancel_in(connection, unanswered.unbilled)
            self._leases.release_in(connection, [*unanswered.unbilled, *unanswered.perhaps_billed])

    def _unanswered_message(self, unanswered: Unanswered) -> str:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(unanswered.reasons.items()))
        return (
            f"{len(unanswered)} of {self._total} requests got no answer this time ({reasons}); "
            f"run again to ask just those ({self._answered} answers of this run are stored)"
        )

    def _claims(self, requests: Requests) -> Iterator[pl.DataFrame]:
        """Claims and reserves the next requests whenever the teacher has room."""
        for missing in open_requests(self._store, requests):
            for chunk in missing.iter_slices(self._claim_size):
                claimed = self._claim(chunk)
                if len(claimed):
                    yield claimed
                if self._out_of_budget:
                    return

    def _claim(self, chunk: pl.DataFrame) -> pl.DataFrame:
        keys: list[str] = chunk["request_key"].to_list()
        bounds = dict(zip(keys, self._teacher.most_microusd(chunk).to_list(), strict=True))
        with self._store.writing(survives_power_loss=False) as connection:
            self._settle_in(connection)
            held = self._leases.acquire_in(connection, keys)
            # what another process answered or sent off between our look and our claim
            costs = {key: bounds[key] for key in self._store.open_in(connection, [key for key in keys if key in held])}
            granted = self._budget.reserve_in(connection, costs)
            if len(granted) < len(costs):
                self._out_of_budget = budget_message(self._budget, self._budget.spent_in(connection))
            self._leases.release_in(connection, held.difference(granted))
        return chunk if len(granted) == len(chunk) else chunk.filter(pl.col("request_key").is_in(granted))

    def _settle_in(self, connection: Connection) -> None:
        """Ends claims on what was answered, and turns reservations into costs; until then the upper bound counts."""
        settled, self._unsettled = self._unsettled, {}
        self._budget.settle_in(connection, settled)
        self._leases.release_in(connection, settled)

    def deliver(self, answers: Sequence[Response]) -> None:
        """Stores answers; they are settled with the next claim."""
        with self._store.writing() as connection:
            self._store.add_in(
                connection,
                answers,
                self._teacher.identity,
                transport=self._teacher.transport,
                client_version=self._teacher.version,
            )
        actual = {a.request_key: a.usage.cost_microusd for a in answers}
        self._unsettled |= actual
        self._answered += len(actual)
        self._cost_microusd += sum(actual.values())
        if not self._announce:
            return
        metrics = {"cost_usd": self._cost_microusd / MICRO} if self._cost_microusd else {}
        report(Progress(STAGE, self._answered, self._total, "answers", metrics))

    def lost(self, request_key: str) -> bool:
        """Counts a lost answer as paid in full, and reserves the same once more where the budget allows it."""
        with self._store.writing() as connection:
            again = self._budget.again_in(connection, request_key)
            if not again:
                self._out_of_budget = budget_message(self._budget, self._budget.spent_in(connection))
        return again


def budget_message(budget: Budget, spent_microusd: int) -> str:
    """What a user reads when the budget stops a run."""
    limit = (budget.limit_microusd or 0) / MICRO
    return (
        f"{budget.distillation}: the next request could exceed teacher.budget_usd: {limit:.2f} "
        f"(spent or reserved: ${spent_microusd / MICRO:.4f}). All answers so far are stored; "
        "raise the budget and run again to go on"
    )
