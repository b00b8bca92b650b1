"""How long work tells whoever is watching how far it is: a terminal, a Dagster run, both or nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units of a stage, with its measurements."""

    stage: str
    done: int
    total: int
    unit: str
    metrics: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]
Hearer = Callable[[str], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("distill_progress", default=())
_hearers: ContextVar[tuple[Hearer, ...]] = ContextVar("distill_notices", default=())


def report(progress: Progress) -> None:
    """Tells all listeners of the current context."""
    for listener in _listeners.get():
        listener(progress)


def tell(notice: str) -> None:
    """Tells all hearers of the current context one sentence, e.g. why work takes the way it takes."""
    for hearer in _hearers.get():
        hearer(notice)


@contextmanager
def hearing(hearer: Hearer) -> Iterator[None]:
    """Adds a hearer of notices for the duration of the block."""
    token = _hearers.set((*_hearers.get(), hearer))
    try:
        yield
    finally:
        _hearers.reset(token)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Adds a listener for the duration of the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
