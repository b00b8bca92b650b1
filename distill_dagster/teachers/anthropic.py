"""The `anthropic` teacher: its identity, key and prices; the SDK is loaded only when there is something to ask."""

import asyncio
import importlib.metadata
import os
from collections.abc import Iterator

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.prices import price_of
from distill_dagster.teachers.protocol import Deliver, TeacherIdentity, Unanswered

KEY_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
# Rounds of chat mark-up that the API counts as input tokens beside the text.
OVERHEAD_TOKENS = 64


class AnthropicTeacher:
    """Claude behind the Messages API."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._spec = spec
        self.transport = "messages"
        self.version = f"anthropic {importlib.metadata.version('anthropic')}"
        self._identity = TeacherIdentity(
            provider="anthropic",
            model=spec.model,
            parameters={
                "max_tokens": spec.max_tokens,
                "stop_sequences": list(spec.stop_sequences),
                "effort": spec.effort,
                "thinking_tokens": spec.thinking_tokens,
            },
        )

    @property
    def identity(self) -> TeacherIdentity:
        """Model and output-affecting parameters."""
        return self._identity

    def check(self) -> None:
        """Needs a key in the environment and a price for the model."""
        if not any(os.environ.get(name) for name in KEY_VARIABLES):
            raise TeacherError(f"the teacher {self._spec.model} needs an API key: set {KEY_VARIABLES[0]} and run again")
        price_of(self._spec)

    def most_microusd(self, requests: pl.DataFrame) -> pl.Series:
        """The most each request can cost: a token is at least one byte, and max_tokens bounds the answer."""
        price = price_of(self._spec)
        sizes = requests["messages"].str.len_bytes() + OVERHEAD_TOKENS
        costs = [price.most_microusd(size, self._spec.max_tokens) for size in sizes.to_list()]
        return pl.Series("cost_microusd", costs, dtype=pl.Int64)

    def answer(self, batches: Iterator[pl.DataFrame], deliver: Deliver) -> Unanswered:
        """Asks with up to `concurrency` requests in flight, a request counting until its answer is durable."""
        from distill_dagster.teachers.anthropic_messages import Conversation

        return asyncio.run(Conversation(self._spec, price_of(self._spec), batches, deliver).run())
