"""A project with a history: inputs that change, commands that run or die, and the books of what was paid."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from distill_dagster.project import Distillation, Project
from distill_dagster.spec.loading import load_spec
from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import KEY, AnthropicServer, Reply, prompt_of, refusal, truncated
from tests.histories.declared import Declared
from tests.histories.forking import Death, Forking, Process

NAME = "demo"
CONCURRENCY = 3
Stored = dict[str, tuple[Any, ...]]


class World:
    """One project in a folder of its own.

    Attributes:
        root: the project.
        declared: the inputs as they are on disk.
    """

    def __init__(self, root: Path, forking: Forking, environment: dict[str, str]) -> None:
        """Args:
        environment: variables of its commands, e.g. where the teacher is.
        """
        self.root = root
        self.folder = root / "assets" / NAME
        self._forking = forking
        self._environment = environment
        self.declared: Declared | None = None

    def declare(self, declared: Declared) -> None:
        """Writes the inputs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = declared.files()
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in files:
                path.unlink()
        for name, content in files.items():
            (self.folder / name).write_text(content, encoding="utf-8")
        self.declared = declared

    def start(self, *arguments: str, death: Death | None = None) -> Process:
        """Starts a `distill` command."""
        variables = {"DISTILL_PROJECT": str(self.root), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        variables["HF_HUB_OFFLINE"] = "1"
        unset = dict.fromkeys(("DAGSTER_HOME", "DISTILL_HOME", "DISTILL_STORE_URL"))
        return self._forking.distill(arguments, {**self._environment, **variables, **unset}, death)

    def distill(self, *arguments: str) -> tuple[int, str]:
        """Runs a `distill` command to its end: exit code and output."""
        process = self.start(*arguments)
        return process.wait(), process.output

    @property
    def distillation(self) -> Distillation:
        """As it is declared now."""
        project = Project(root=self.root, home=self.root / ".distill")
        return Distillation(project, NAME, self.folder, load_spec(self.folder / "defs.yaml"))

    def stored(self) -> Stored:
        """All stored responses by request key."""
        return {row[0]: row for row in self._query("select * from responses order by request_key")}

    def open_in_batches(self) -> int:
        """Requests that travel in batches."""
        return len(self._query("select request_key from batch_requests"))

    def clean(self, root: Path) -> "World":
        """Another project with the same inputs and a copy of the response store, where nothing ever ran."""
        assert self.declared is not None
        other = World(root, self._forking, self._environment)
        other.declare(self.declared)
        (root / ".distill").mkdir()
        if (self.root / ".models").is_dir():
            shutil.copytree(self.root / ".models", root / ".models")
        with closing(sqlite3.connect(self._store)) as old, closing(sqlite3.connect(other._store)) as new:
            old.backup(new)
        return other

    @property
    def _store(self) -> Path:
        return self.root / ".distill" / "responses.sqlite"

    def _query(self, question: str) -> list[tuple[Any, ...]]:
        if not self._store.exists():
            return []
        with closing(sqlite3.connect(self._store)) as connection:
            known = connection.execute("select name from sqlite_master where name = 'batch_requests'").fetchall()
            return connection.execute(question).fetchall() if known else []


class Books:
    """That nothing which was stored is ever gone."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: Stored = {}

    @property
    def paid(self) -> int:
        """Answers that were made."""
        return len(self._world.stored())

    def check(self, kills: int = 0) -> None:
        """Nothing stored is gone or changed.

        Args:
            kills: how many processes were killed since the last look.
        """
        stored = self._world.stored()
        gone = [key for key, row in self._seen.items() if stored.get(key) != row]
        assert not gone, f"responses that are stored no more, or otherwise: {gone}"
        self._seen = stored


class Paying(Books):
    """What a server was paid for beside what a store has of it.

    A process that is killed loses at most the answers that were in flight. What travels in a batch is never lost.
    """

    def __init__(self, world: World, server: AnthropicServer) -> None:
        super().__init__(world)
        self._server = server
        self._lost_least = self._lost_most = 0

    @property
    def paid(self) -> int:
        """Requests that the server has billed."""
        return len(self._server.accepted)

    def check(self, kills: int = 0) -> None:
        """And everything paid is stored, but for what was in flight at kills."""
        super().check()
        self._lost_most += kills * CONCURRENCY
        travelling = self._world.open_in_batches()
        missing = self.paid - len(self._seen)
        assert self._lost_least <= missing <= self._lost_most + travelling, (
            f"{self.paid} answers paid, {len(self._seen)} stored, {travelling} in batches, "
            f"{self._lost_least} to {self._lost_most} lost in flight"
        )
        if not travelling:
            self._lost_least = self._lost_most = missing


class Teacher:
    """What the server answers: by the prompt's text, with refusals, cut and empty answers among them."""

    def __init__(self, server: AnthropicServer) -> None:
        self._countdown: int | None = None
        self._then: Callable[[], None] | None = None
        server.script = self

    def after(self, answers: int, then: Callable[[], None]) -> None:
        """Does something once, in the middle of the answer of that number, from 1."""
        self._countdown, self._then = answers, then

    def __call__(self, body: Body, seen: int) -> Reply:
        if self._countdown is not None:
            self._countdown -= 1
            if self._countdown == 0 and self._then is not None:
                self._then()
        prompt = prompt_of(body)
        kind = sum(prompt.encode()) % 11
        if kind == 0:
            return refusal()
        if kind == 1:
            return truncated(f"Part of an answer to {prompt}")
        return Reply(text="" if kind == 2 else f"Answer {seen % 2} to {prompt}")


def killed_after(world: World, teacher: Teacher, answers: int, *arguments: str) -> tuple[int, str]:
    """Runs a command that is killed while the teacher answers for the nth time; its exit code and output."""
    kill: list[Process] = []
    teacher.after(answers, lambda: kill[0].kill())
    kill.append(world.start(*arguments))
    code = kill[0].wait()
    teacher.after(0, lambda: None)
    return code, kill[0].output


def hosted(server: AnthropicServer) -> dict[str, str]:
    """The variables with which commands find the teacher."""
    return {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": server.url}
