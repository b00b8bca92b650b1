"""Which way requests go to the provider, and why."""

from dataclasses import dataclass
from typing import Literal

from distill_dagster.spec.teacher import TeacherSpec

# From here on half the price outweighs the wait: most batches end within an hour, all within a day.
BATCHES_FROM = 2_000


@dataclass(frozen=True)
class Choice:
    """A transport and the reason for it."""

    transport: Literal["messages", "batches"]
    why: str


def choose_transport(spec: TeacherSpec, missing: int) -> Choice:
    """The declared transport; `auto` goes by the number of answers that are missing."""
    if spec.transport == "auto":
        if missing >= BATCHES_FROM:
            why = f"at least {BATCHES_FROM:,}: batches, at half price, most within an hour"
            return Choice("batches", f"transport auto: {missing:,} answers are missing, {why}")
        why = f"fewer than {BATCHES_FROM:,}: one request each, at once"
        return Choice("messages", f"transport auto: {missing:,} answers are missing, {why}")
    return Choice(spec.transport, f"transport {spec.transport}, as declared")
