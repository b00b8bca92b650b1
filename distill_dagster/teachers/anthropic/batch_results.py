"""Takes in the results of an ended batch: read to a file, counted, and stored completely or not at all."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from distill_dagster.errors import TeacherError
from distill_dagster.teachers.anthropic.batches import BatchClient, BrokenResultsError
from distill_dagster.teachers.anthropic.requests import UnreadableAnswerError
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.ledger import Batch, Ledger
from distill_dagster.teachers.store.responses import ResponseStore

READINGS = 4
GROUP = 1_000
TRANSPORT = "batches"


@dataclass
class Ingested:
    """What a batch brought.

    Attributes:
        answered: final answers, error rows included.
        open_again: requests without one (expired, cancelled, failed at the provider); they will be asked again.
    """

    answered: int = 0
    open_again: int = 0
    cost_microusd: int = 0

    def sentence(self, provider_id: str) -> str:
        """For people."""
        again = f", {self.open_again:,} came back unanswered" if self.open_again else ""
        return f"batch {provider_id}: {self.answered:,} answers stored{again}"


class Intake:
    """Stores the answers of one teacher's ended batches."""

    def __init__(self, client: BatchClient, store: ResponseStore, ledger: Ledger, teacher: AnthropicTeacher) -> None:
        self._client = client
        self._store = store
        self._ledger = ledger
        self._teacher = teacher

    def take(self, batch: Batch, account: Budget, folder: Path) -> Ingested | None:
        """Stores an ended batch's answers, once.

        Args:
            account: where its cost was reserved.
            folder: an empty one for the results on their way.

        Returns:
            What it brought; None where the batch was adopted and its results show that it is another's.

        Raises:
            TeacherError: the results cannot be read completely.
        """
        expected = self._ledger.keys(batch)
        path = folder / "results.jsonl"
        problem = ""
        for _ in range(READINGS):
            try:
                seen = self._download(batch, path)
            except BrokenResultsError as error:
                problem = str(error)
                continue
            if batch.adopted and seen and expected.isdisjoint(seen):
                return None
            if seen == expected and len(seen) == sum(batch.counts.values()):
                return self._store_all(batch, account, path)
            problem = f"{len(seen)} of {len(expected)} results came through"
        raise TeacherError(
            f"batch {batch.provider_id}: {problem}, in {READINGS} readings; nothing of it was stored, "
            "run again to read it anew"
        )

    def _download(self, batch: Batch, path: Path) -> set[str]:
        """Writes the results to a file; returns their request keys."""
        assert batch.provider_id is not None
        seen: set[str] = set()
        with path.open("w", encoding="utf-8") as file:
            for key, line in self._client.results(batch.provider_id):
                if key in seen:
                    raise BrokenResultsError(f"{key} comes twice in the results of {batch.provider_id}")
                seen.add(key)
                file.write(line.rstrip("\n") + "\n")
        return seen

    def _store_all(self, batch: Batch, account: Budget, path: Path) -> Ingested:
        taken = Ingested()
        with self._store.writing() as connection:
            if self._ledger.ingest_in(connection, batch):  # else another process was faster
                for lines in _groups(path):
                    self._store_group(connection, lines, account, taken)
        return taken

    def _store_group(self, connection: Connection, lines: list[str], account: Budget, taken: Ingested) -> None:
        answers, unbilled = [], []
        for line in lines:
            try:
                result = self._client.read(line)
            except UnreadableAnswerError:
                taken.open_again += 1  # billed, so its reservation stays as spent
                continue
            if result.response is None:
                unbilled.append(result.request_key)
            else:
                answers.append(result.response)
        teacher = self._teacher
        self._store.add_in(connection, answers, teacher.identity, transport=TRANSPORT, client_version=teacher.version)
        account.settle_in(connection, {a.request_key: a.usage.cost_microusd for a in answers})
        account.cancel_in(connection, unbilled)
        taken.answered += len(answers)
        taken.open_again += len(unbilled)
        taken.cost_microusd += sum(a.usage.cost_microusd for a in answers)


def _groups(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        while lines := list(islice(file, GROUP)):
            yield lines
