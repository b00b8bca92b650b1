"""Systems that train side by side, each in a process of its own, of which one makes a step while the others wait."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, Any

from benchmarks.training_rivals.setting import ROOT, Setting, command_of, environment_of, result_of

_WAITING = "waiting for its turn"


def wait_for_turn() -> None:
    """Called by a system between two steps; returns when it may go on."""
    print(_WAITING, flush=True)
    sys.stdin.readline()


def train_in_turn(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Trains all systems, step by step in turn; returns what each measured.

    Every step begins with another of them.

    Raises:
        SystemExit: one failed; what it wrote to stderr is shown.
    """
    with ExitStack() as stack:
        systems = [stack.enter_context(_System(replace(setting, takes_turns=True))) for setting in settings]
        for system in systems:
            system.read_until_it_waits()
        for step in range(len(settings[0].batches)):
            first = step % len(systems)
            for system in systems[first:] + systems[:first]:
                system.go_on()
                system.read_until_it_waits()
        return [system.result() for system in systems]


class _System:
    """One that waits before each step."""

    def __init__(self, setting: Setting) -> None:
        self._name = setting.system
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            command_of(setting.system, str(setting.write())),
            cwd=ROOT,
            env=environment_of(setting.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> "_System":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def read_until_it_waits(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == _WAITING:
                return
        status, _, errors = self._end()
        raise SystemExit(f"{self._name} ended before its last step, with status {status}:\n{errors[-4000:]}")

    def result(self) -> dict[str, Any]:
        """What the last line says, after the last step."""
        self.go_on()
        return result_of(self._name, *self._end())

    def _end(self) -> tuple[int, str, str]:
        """Status, output and errors of the process, for which it waits."""
        output, _ = self._process.communicate()
        self._errors.seek(0)
        return self._process.returncode, output, self._errors.read()
