"""How a worker's life ends: with its parent, or on SIGTERM or SIGINT once what must be saved is saved."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
ORPHANED = 142
POLL_SECONDS = 0.5
# Ctrl-C reaches the worker twice: from the terminal, and from the process that started it
SAME_SIGNAL_SECONDS = 2.0


def exit_with_parent(poll_seconds: float = POLL_SECONDS) -> None:
    """Ends this process, without clean-up, as soon as the process that started it is gone.

    A thread polls the parent's pid: Linux's parent-death signal would fire when the parent's *thread* ends, and other
    systems lack it. Call it first thing, before slow imports, so that the parent is still the one that started us.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_seconds)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


class Termination:
    """SIGTERM or SIGINT, answered at once, or noted for work that first has something to save.

    Install it once, in the main thread. A second one, two seconds later or more, always ends the process at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._first = 0.0

    def install(self) -> None:
        """Starts to handle the signals."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block a first signal only sets `requested`; the block looks at it and ends in its own time.

        Raises:
            SystemExit: with code 143 when the block ends, if a signal came meanwhile.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise SystemExit(TERMINATED)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        repeated = self.requested and now - self._first >= SAME_SIGNAL_SECONDS
        if not self.requested:
            self.requested, self._first = True, now
        if repeated or not self._deferred:
            raise SystemExit(TERMINATED)
