"""Commands in processes of their own without the seconds of imports: each is forked from a process that has them done.

`python -m tests.histories.forking SOCKET [torch]` listens; `Forking` is its client. A forked command is a real process
in a group of its own, so that SIGKILL ends it and its workers at once, and nothing of it survives but files.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).parents[2]
SOCKET_VARIABLE = "DISTILL_TEST_FORKING"
KILLED = -signal.SIGKILL
Durable = Literal["file", "commit", "worker", "pointer"]


@dataclass(frozen=True)
class Death:
    """Dies right before a step that would have been durable; or after readers were pointed at a version.

    Attributes:
        of: whether renamed and removed files are counted, or the databases' commits, or the files of a worker, or
            `current.json` files.
        step: which one, from 1; a process that takes fewer ends well.
    """

    of: Durable
    step: int


class Process:
    """A forked command."""

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._lines = connection.makefile("r", encoding="utf-8")
        self._log = log
        self.pid = int(self._lines.readline())

    def kill(self) -> None:
        """Kills it and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code; KILLED where it died without one."""
        said = self._lines.readline()
        self._lines.close()
        while _lives(self.pid):
            time.sleep(0.002)
        return int(said) if said else KILLED

    @property
    def output(self) -> str:
        """What it printed."""
        return self._log.read_text(encoding="utf-8")


class Forking:
    """The client of one forking process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = itertools.count(1)

    def distill(
        self, arguments: Sequence[str], environment: Mapping[str, str | None], death: Death | None = None
    ) -> Process:
        """Starts a `distill` command.

        Args:
            environment: variables to set, or with None to remove.
        """
        log = self._path.with_name(f"output-{next(self._number)}.txt")
        wanted = {
            "command": "distill",
            "arguments": list(arguments),
            "environment": dict(environment),
            "death": [death.of, death.step] if death else None,
            "log": str(log),
        }
        return Process(_asked(self._path, wanted), log)


@contextmanager
def forking(folder: Path, *, torch: bool = False) -> Iterator[Forking]:
    """A forking process for the duration of the block.

    Args:
        folder: for its socket and the commands' output.
        torch: whether its workers need no import of torch either.
    """
    path = folder / "forking"
    command = [sys.executable, "-m", "tests.histories.forking", str(path), *(["torch"] if torch else [])]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield Forking(path)
        finally:
            process.kill()


def _asked(path: Path, wanted: Mapping[str, Any]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    connection.sendall(json.dumps(wanted).encode() + b"\n")
    return connection


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Imports everything, then forks a process for each connection."""
    path, *more = sys.argv[1:]
    _prepare(path, torch="torch" in more)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _child(connection)
            connection.close()


def _prepare(path: str, *, torch: bool) -> None:
    import dagster

    modules = ["cli", "commands.run", "commands.gc", "commands.plan", "graph.instance_home", "graph.run", "worker"]
    modules += ["releases.admission", "evaluation.build", "teachers.anthropic.batching"]
    modules += ["logits.capture", "students.train", "evaluation.predict", "teachers.local.transformers_local"] * torch
    for module in modules:
        __import__(f"distill_dagster.{module}")
    __import__("anthropic")
    from distill_dagster.teachers.anthropic import batching

    batching.FIRST_POLL_S = batching.LONGEST_POLL_S = 0.02
    batching.GRACE_S = 0.5
    os.environ[SOCKET_VARIABLE] = path
    dagster.PipesSubprocessClient = _ForkedWorker  # type: ignore[misc,assignment]
    assert threading.active_count() == 1, "what forks has one thread"


class _ForkedWorker:
    """In place of Dagster's client: the worker is forked by the same process, into the group of the run."""

    death: tuple[Durable, int] | None = None

    def run(self, command: Sequence[str], context: object) -> None:
        wanted = {"command": "worker", "arguments": [command[-1]], "group": os.getpgrp(), "death": self.death}
        log = Path(command[-1]).with_suffix(".txt")
        process = Process(_asked(Path(os.environ[SOCKET_VARIABLE]), wanted | {"log": str(log)}), log)
        if code := process.wait():
            raise RuntimeError(f"the worker ended with code {code}: {process.output}")


def _child(connection: socket.socket) -> None:
    """Does what the connection asks for, and ends."""
    code = 1
    try:
        wanted = json.loads(connection.makefile("r", encoding="utf-8").readline())
        os.setpgid(0, wanted.get("group", 0))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(wanted["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        connection.sendall(f"{os.getpid()}\n".encode())
        code = _do(wanted)
    except BaseException:
        __import__("traceback").print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(f"{code}\n".encode())
    os._exit(code)


def _do(wanted: Mapping[str, Any]) -> int:
    of, step = wanted["death"] or (None, 0)
    if wanted["command"] == "worker":
        from distill_dagster.worker import main

        if of == "worker":
            _die_at("file", step)
        return main(wanted["arguments"])
    from distill_dagster.cli import main as distill

    for name, value in wanted["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    if of == "worker":
        _ForkedWorker.death = (of, step)
    elif of is not None:
        _die_at(of, step)
    try:
        distill(wanted["arguments"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _die_at(of: Durable, step: int) -> None:
    count = itertools.count(1)

    def passed(*_arguments: object) -> None:
        if next(count) == step:
            os.killpg(0, signal.SIGKILL)

    def counted(does: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            passed()
            return does(*arguments, **options)

        return counting

    if of == "pointer":
        replace = os.replace

        def pointing(source: Path, target: Path) -> None:
            replace(source, target)
            if Path(target).name == "current.json":
                passed()

        os.replace = pointing  # type: ignore[assignment]
        return
    if of == "commit":
        from sqlalchemy import Engine, event

        event.listen(Engine, "commit", passed)
        return
    for name in ("replace", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    main()
