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
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("distill_progress", default=())


def report(progress: Progress) -> None:
    """Tells all listeners of the current context."""
    for listener in _listeners.get():
        listener(progress)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Adds a listener for the duration of the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
