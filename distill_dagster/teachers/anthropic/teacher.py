"""The `anthropic` teacher: its identity, key and prices; the SDK is loaded only when there is something to ask."""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.anthropic.requests import CACHED_FROM_BYTES, KEY_VARIABLES, Requests
from distill_dagster.teachers.asking.hosted import HostedTeacher
from distill_dagster.teachers.protocol import Desk, Unanswered


class AnthropicTeacher(HostedTeacher):
    """Claude behind the Messages API."""

    transport = "messages"
    overhead_tokens = 64

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
        parameters = {
            "max_tokens": spec.max_tokens,
            "stop_sequences": list(spec.stop_sequences),
            "effort": spec.effort,
            "thinking_tokens": spec.thinking_tokens,
        }
        super().__init__(spec, project_root, schema, parameters)
        self.version = f"anthropic {importlib.metadata.version('anthropic')}"
        self.requests = Requests(spec, schema, shared_turns)
        self.cached_from_bytes = CACHED_FROM_BYTES if spec.prompt_cache else None

    def check(self) -> None:
        """Needs a key in the environment and a price for the model."""
        if not any(os.environ.get(name) for name in KEY_VARIABLES):
            raise TeacherError(f"the teacher {self.spec.model} needs an API key: set {KEY_VARIABLES[0]} and run again")
        _ = self.price

    def answer(self, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
        """Asks with up to `concurrency` requests in flight, a request counting until its answer is durable."""
        from distill_dagster.teachers.anthropic.messages import MessagesClient
        from distill_dagster.teachers.asking.conversation import converse

        price = self.price
        return converse(lambda: MessagesClient(self.spec, self.requests, price), self.spec, batches, desk)
