"""The `anthropic` teacher: its identity, key and prices; the SDK is loaded only when there is something to ask."""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.anthropic.requests import CACHED_FROM_BYTES, KEY_VARIABLES, Requests
from distill_dagster.teachers.money.prices import Price, price_of
from distill_dagster.teachers.protocol import Desk, TeacherIdentity, Unanswered

# Rounds of chat mark-up that the API counts as input tokens beside the text.
OVERHEAD_TOKENS = 64


class AnthropicTeacher:
    """Claude behind the Messages API."""

    transport = "messages"

    def __init__(
        self,
        spec: TeacherSpec,
        project_root: Path,
        schema: Mapping[str, Any] | None = None,
        shared_turns: int = 0,
    ) -> None:
        """Args:
        spec: the declaration.
        project_root: where the project's own prices are.
        schema: JSON Schema that answers are held to.
        shared_turns: few-shot turns that every conversation begins with, after its system prompt.
        """
        self.spec = spec
        self.version = f"anthropic {importlib.metadata.version('anthropic')}"
        self.requests = Requests(spec, schema, shared_turns)
        self._project_root = project_root
        self._identity = _identity(spec, schema)

    @property
    def identity(self) -> TeacherIdentity:
        """Model and output-affecting parameters."""
        return self._identity

    @property
    def price(self) -> Price:
        """What its tokens cost; raises TeacherError where nothing says so."""
        return price_of(self.spec, self._project_root)

    def check(self) -> None:
        """Needs a key in the environment and a price for the model."""
        if not any(os.environ.get(name) for name in KEY_VARIABLES):
            raise TeacherError(f"the teacher {self.spec.model} needs an API key: set {KEY_VARIABLES[0]} and run again")
        _ = self.price

    def most_microusd(self, requests: pl.DataFrame, *, batched: bool = False) -> pl.Series:
        """The most each request can cost: a token is at least one byte, and max_tokens bounds the answer."""
        price, beside = self.price, OVERHEAD_TOKENS + self._schema_bytes()
        costs = [
            price.most_microusd(
                size + beside,
                self.spec.max_tokens,
                cached=self.spec.prompt_cache and size >= CACHED_FROM_BYTES,
                batched=batched,
            )
            for size in requests["messages"].str.len_bytes().to_list()
        ]
        return pl.Series("cost_microusd", costs, dtype=pl.Int64)

    def answer(self, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
        """Asks with up to `concurrency` requests in flight, a request counting until its answer is durable."""
        from distill_dagster.teachers.anthropic.messages import MessagesClient
        from distill_dagster.teachers.asking.conversation import converse

        price = self.price
        return converse(lambda: MessagesClient(self.spec, self.requests, price), self.spec, batches, desk)

    def _schema_bytes(self) -> int:
        return len(canonical_json(self.requests.schema).encode()) if self.requests.schema is not None else 0


def _identity(spec: TeacherSpec, schema: Mapping[str, Any] | None) -> TeacherIdentity:
    parameters: dict[str, Any] = {
        "max_tokens": spec.max_tokens,
        "stop_sequences": list(spec.stop_sequences),
        "effort": spec.effort,
        "thinking_tokens": spec.thinking_tokens,
    }
    if schema is not None:
        parameters["json_schema"] = dict(schema)
    return TeacherIdentity(provider="anthropic", model=spec.model, parameters=parameters)
