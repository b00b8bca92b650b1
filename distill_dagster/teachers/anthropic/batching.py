"""Gets requests answered through provider batches: never one batch twice, whatever dies in between.

The order of writes is the protocol. A batch is written down before it is sent, sent once, and its id stored; where the
answer to its creation got lost, the provider's list is asked before anything is sent again. Results are read to a file,
counted, and only then stored, all of them in one transaction.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from distill_dagster.errors import BudgetError, TeacherError, UnavailableError
from distill_dagster.progress import Progress, report, tell
from distill_dagster.teachers.anthropic.batch_parts import batch_sized
from distill_dagster.teachers.anthropic.batch_results import Intake
from distill_dagster.teachers.anthropic.batches import (
    BatchClient,
    ProviderBatch,
    RefusedCreationError,
    UnclearCreationError,
)
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.asking.asking import Asked, Asking, budget_message
from distill_dagster.teachers.asking.requests import Requests
from distill_dagster.teachers.asking.survey import open_requests, survey
from distill_dagster.teachers.protocol import ResponseStatus
from distill_dagster.teachers.store.budget import MICRO, Budget
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.ledger import Batch, BatchState, Ledger, now_ms
from distill_dagster.teachers.store.responses import ResponseStore

STAGE = "teacher_batches"
# How long a batch may take to show up in the provider's list after it was sent.
GRACE_S = 60.0
CLOCK_SKEW_MS = 15 * 60 * 1000
FIRST_POLL_S, LONGEST_POLL_S = 1.0, 60.0
TRIALS = 3
REFUSALS = 5
FRUITLESS_ROUNDS = 2
# Looks at batches that may fail in a row; with the longest poll that is half an hour.
MOST_FAILURES = 30


class Batching:
    """One call of `ask`: the requests of all partitions of a run, through batches of one teacher."""

    def __init__(
        self, store: ResponseStore, teacher: AnthropicTeacher, budget: Budget, *, wait: bool, home: Path
    ) -> None:
        """Args:
        wait: whether to stay until all batches have ended; else they are only sent, and collected by a later call.
        home: where results are put down before they are counted.
        """
        self._store = store
        self._teacher = teacher
        self._budget = budget
        self._wait = wait
        self._home = home
        self._ledger = Ledger(store.engine)
        self._identity = teacher.identity.digest
        self._answered = 0
        self._cost_microusd = 0
        self._total = 0
        self._started = time.monotonic()

    def ask(self, requests: Requests) -> Asked:
        """Sends what is missing, and waits for it where it was made to.

        Args:
            requests: REQUEST columns.

        Raises:
            BudgetError: the budget does not allow the next request; what was sent before is kept.
            TeacherError: the API refuses the requests or cannot be asked.
        """
        first = survey(self._store, requests)
        if first.needed == first.stored:
            return Asked(first.needed, first.stored)
        self._teacher.check()
        with BatchClient(self._teacher.spec, self._teacher.requests, self._teacher.price) as client:
            self._send_and_collect(client, requests, first.missing + first.in_batches)
        last = survey(self._store, requests)
        return Asked(last.needed, first.stored, self._answered, self._cost_microusd, last.in_batches)

    def collect(self) -> int:
        """Stores the answers of batches that have ended; returns how many batches are still under way."""
        if not self._ledger.find(identity=self._identity):
            return 0
        self._teacher.check()
        with BatchClient(self._teacher.spec, self._teacher.requests, self._teacher.price) as client, self._alone():
            self._advance(client)
        return len(self._ledger.find(identity=self._identity))

    def _send_and_collect(self, client: BatchClient, requests: Requests, total: int) -> None:
        self._total = total
        fruitless = 0
        while True:
            before = self._answered
            with self._alone():
                self._advance(client)
                self._try_one(requests)
                stopped = self._submit(client, requests)
            self._wait_for_batches(client)
            left = survey(self._store, requests)
            if stopped and not (self._wait and self._answered > before and left.missing):
                raise stopped
            if not self._wait or not (left.missing or left.in_batches):
                return
            fruitless = 0 if self._answered > before else fruitless + 1
            if fruitless == FRUITLESS_ROUNDS:
                raise TeacherError(
                    f"{left.missing + left.in_batches} requests came back from {FRUITLESS_ROUNDS} rounds of batches "
                    "without an answer (expired, cancelled or failed at the provider); run again later"
                )

    def _wait_for_batches(self, client: BatchClient) -> None:
        """Stays until every open batch has ended and is stored."""
        poll_s, failures = FIRST_POLL_S, 0
        while self._wait and (open_ := self._ledger.find(identity=self._identity)):
            minutes = (time.monotonic() - self._started) / 60
            metrics = {"batches_open": float(len(open_)), "minutes": round(minutes, 1)}
            report(Progress(STAGE, self._answered, max(self._total, self._answered), "answers", metrics))
            time.sleep(poll_s)
            poll_s = min(LONGEST_POLL_S, poll_s * 1.5)
            failures = self._look(client, failures)

    def _look(self, client: BatchClient, failures: int) -> int:
        """Moves the batches on; bears with an API that is away for a while.

        Args:
            failures: how often in a row it was away before.

        Returns:
            How often in a row it has been away by now.
        """
        try:
            with self._alone():
                self._advance(client)
        except UnavailableError as error:
            if failures + 1 == MOST_FAILURES:
                raise
            if not failures:
                tell(f"{error}; still waiting")
            return failures + 1
        return 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time moves the batches of a teacher."""
        with Leases(self._store.engine).hold(f"batches/{self._identity[:32]}"):
            yield

    def _advance(self, client: BatchClient) -> None:
        """Moves every open batch of the teacher as far as it goes."""
        for batch in self._ledger.find(identity=self._identity):
            if batch.state is BatchState.INTENDED:
                self._reconcile(client, batch)
        for batch in self._ledger.find(identity=self._identity):
            if batch.state is not BatchState.INTENDED:
                self._take_in(client, batch)

    def _reconcile(self, client: BatchClient, batch: Batch) -> None:
        """Finds out whether a batch without an id was made: by its size and time, and in the end by its results."""
        if batch.sent_at is None:
            self._ledger.abandon(batch, self._owner(batch))
            return
        known = self._ledger.known_ids().union(batch.not_ours)
        alike = [
            seen
            for seen in client.listed(batch.sent_at - CLOCK_SKEW_MS)
            if seen.id not in known and seen.requests == batch.requests
        ]
        if len(alike) == 1 or (alike and all(seen.has_ended for seen in alike)):
            # Where several have ended, each is tried in turn: results of another's are disowned when they are read.
            self._ledger.created(batch, alike[0].id, alike[0].created_at, adopted=True)
            tell(f"batch {alike[0].id} was found again; it is not sent a second time")
        elif not alike and now_ms() - batch.sent_at >= GRACE_S * 1000:
            self._ledger.abandon(batch, self._owner(batch))

    def _take_in(self, client: BatchClient, batch: Batch) -> None:
        """Stores the answers of a batch if it has ended."""
        assert batch.provider_id is not None
        seen: ProviderBatch = client.retrieve(batch.provider_id)
        if not seen.has_ended:
            return
        if not seen.has_results:
            self._ledger.give_up(batch)
            tell(f"the results of batch {seen.id} are no longer kept by the provider; its requests will be asked again")
            return
        self._ledger.ended(batch, seen.ended_at or now_ms(), seen.counts)
        ended = next((b for b in self._ledger.find(identity=self._identity) if b.id == batch.id), None)
        if ended is None:
            return  # another process was faster
        with tempfile.TemporaryDirectory(prefix=".batch-", dir=self._home) as folder:
            intake = Intake(client, self._store, self._ledger, self._teacher)
            taken = intake.take(ended, self._owner(batch), Path(folder))
        if taken is None:
            self._ledger.disowned(ended)
            return
        self._answered += taken.answered
        self._cost_microusd += taken.cost_microusd
        tell(taken.sentence(batch.provider_id))
        metrics = {"cost_usd": self._cost_microusd / MICRO}
        report(Progress(STAGE, self._answered, max(self._total, self._answered), "answers", metrics))

    def _try_one(self, requests: Requests) -> None:
        """Asks one real request first: a batch validates its requests only after it has taken them.

        Raises:
            TeacherError: the API refuses the first few requests, so it would refuse all.
        """
        if self._store.has_answer_of(self._teacher.identity):
            return
        refused: list[str] = []
        for chunk in open_requests(self._store, requests):
            for number in range(min(TRIALS - len(refused), len(chunk))):
                trial = chunk.slice(number, 1)
                asking = Asking(self._store, self._teacher, self._budget, claim_size=1, announce=False)
                asked = asking.ask([trial])
                self._answered += asked.answered
                self._cost_microusd += asked.cost_microusd
                answer = self._store.fetch(trial["request_key"]).row(0, named=True)
                if answer["status"] != ResponseStatus.ERROR.value:
                    tell(f"one request was asked as a trial (${asked.cost_microusd / MICRO:.4f}); now the batches")
                    return
                refused.append(str(answer["detail"]))
            if len(refused) == TRIALS:
                raise TeacherError(f"no batch was sent: the API refuses the first {TRIALS} requests ({refused[0]})")

    def _submit(self, client: BatchClient, requests: Requests) -> TeacherError | None:
        """Sends everything that is missing; returns what stopped it, if anything did."""
        found = survey(self._store, requests, lambda chunk: self._teacher.most_microusd(chunk, batched=True))
        if not found.missing:
            return None
        report(Progress(STAGE, 0, self._total, "answers", {"at_most_usd": found.most_microusd / MICRO}))
        for part in batch_sized(open_requests(self._store, requests), self._overhead_bytes()):
            stopped = self._submit_part(client, part)
            if stopped:
                return stopped
        return None

    def _submit_part(self, client: BatchClient, part: pl.DataFrame) -> TeacherError | None:
        for _ in range(REFUSALS):
            batch, is_short = self._intend(part)
            wait_s = self._send(client, batch, part) if batch else None
            if wait_s is None:
                return self._out_of_budget() if is_short else None
            time.sleep(wait_s)
        return TeacherError(f"the API refused a batch {REFUSALS} times; run again later to go on from here")

    def _intend(self, part: pl.DataFrame) -> tuple[Batch | None, bool]:
        """Reserves and writes down a batch.

        Returns:
            The batch, None where nothing may be sent; and whether the budget left some requests out.
        """
        keys: list[str] = part["request_key"].to_list()
        bounds = dict(zip(keys, self._teacher.most_microusd(part, batched=True).to_list(), strict=True))
        leases = Leases(self._store.engine)
        with self._store.writing() as connection:
            held = leases.acquire_in(connection, keys)  # whoever asks one of these over messages keeps it
            costs = {key: bounds[key] for key in self._store.open_in(connection, [key for key in keys if key in held])}
            granted = self._budget.reserve_in(connection, costs)
            leases.release_in(connection, held)
            if not granted:
                return None, bool(costs)
            name, run = self._budget.distillation, self._budget.run
            return self._ledger.intend_in(connection, name, self._identity, granted, run), len(granted) < len(costs)

    def _send(self, client: BatchClient, batch: Batch, part: pl.DataFrame) -> float | None:
        """Sends a batch that is written down.

        Returns:
            Seconds after which its requests should be sent again, because it was not made; None where it was, or may
            have been.

        Raises:
            TeacherError: the API will not take it.
        """
        rows = part.filter(pl.col("request_key").is_in(list(self._ledger.keys(batch)))).select(
            "request_key", "messages"
        )
        self._ledger.sending(batch)
        try:
            made = client.create(rows.iter_rows())
        except RefusedCreationError as error:
            self._ledger.abandon(batch, self._owner(batch))
            if error.stop:
                raise TeacherError(error.stop) from None
            return max(error.wait_s, FIRST_POLL_S)
        except UnclearCreationError as error:
            tell(
                f"the answer to the creation of a batch was lost ({error}); "
                "looking for it before anything is sent again"
            )
            return self._settle(client, batch)
        self._ledger.created(batch, made.id, made.created_at)
        tell(f"batch {made.id} with {len(rows):,} requests is under way")
        return None

    def _settle(self, client: BatchClient, batch: Batch) -> float | None:
        """Looks for a batch until it is found or certainly not there; returns as `_send` does."""
        until = time.monotonic() + GRACE_S + 2 * FIRST_POLL_S
        while True:
            now = {b.id: b for b in self._ledger.find(identity=self._identity)}.get(batch.id)
            if now is None:
                return 0.0  # abandoned: it was never made
            if now.state is not BatchState.INTENDED or time.monotonic() > until:
                return None
            self._reconcile(client, now)
            time.sleep(min(FIRST_POLL_S, GRACE_S / 4))

    def _out_of_budget(self) -> BudgetError:
        with self._store.writing() as connection:
            return BudgetError(budget_message(self._budget, self._budget.spent_in(connection)))

    def _owner(self, batch: Batch) -> Budget:
        """The account that the batch's cost was reserved on."""
        return Budget(batch.distillation, None)

    def _overhead_bytes(self) -> int:
        """Bytes of a request beside its conversation."""
        body = self._teacher.requests.body('[{"content":"","role":"user"}]')
        return len(json.dumps({"custom_id": "0" * 64, "params": body})) + 128
