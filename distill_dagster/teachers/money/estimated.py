"""What an estimate says: requests, tokens, money and the budget, each number with what it rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distill_dagster.teachers.money.input_tokens import Tokens


@dataclass(frozen=True)
class Cost:
    """Micro-dollars of all missing answers: what is expected, and the most that the budget would reserve."""

    expected_microusd: int
    most_microusd: int


@dataclass(frozen=True)
class Account:
    """The distillation's budget, in micro-dollars, over all its runs.

    Attributes:
        limit_microusd: `teacher.budget_usd`; None for no limit.
        spent_microusd: open reservations included.
        left_microusd: None for no limit.
        expected_fits, most_fits: whether what is left covers either sum, over the transport that would be taken.
    """

    limit_microusd: int | None
    spent_microusd: int
    left_microusd: int | None
    expected_fits: bool
    most_fits: bool


@dataclass(frozen=True)
class Requests:
    """Distinct requests of the declared prompts: needed, and what became of them so far."""

    needed: int
    stored: int
    in_batches: int
    missing: int


@dataclass(frozen=True)
class Transport:
    """How the missing requests would travel, and why."""

    chosen: Literal["messages", "batches", "chat_completions", "worker"]
    why: str


@dataclass(frozen=True)
class Estimate:
    """What asking the missing requests would come to.

    Attributes:
        partitions: those looked at.
        failed: partitions that have no prompts, each with the reason; they are not counted.
        input_tokens, output_tokens: of the missing requests; None for a local teacher.
        messages, batches: their cost at the price of single requests, and of provider batches where there are any.
        basis: what the other numbers rest on: requests, expected and at_most (of the cost), budget.
        notes: what the numbers leave out.
    """

    distillation: str
    provider: str
    model: str
    partitions: tuple[str, ...]
    failed: Mapping[str, str]
    requests: Requests
    transport: Transport
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    messages: Cost | None = None
    batches: Cost | None = None
    budget: Account | None = None
    basis: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def cost(self) -> Cost | None:
        """The cost over the transport that would be taken; None for a local teacher."""
        return self.batches if self.transport.chosen == "batches" else self.messages
