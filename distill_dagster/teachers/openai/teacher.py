"""The `openai` teacher, any OpenAI-compatible server: its identity, key and prices; the SDK is loaded only to ask."""

import importlib.metadata
import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.asking.hosted import HostedTeacher
from distill_dagster.teachers.openai.requests import KEY_VARIABLE, Requests
from distill_dagster.teachers.protocol import Desk, Unanswered

# The SDK insists on some key; servers without keys do not look at it.
NO_KEY = "none"
# Names that only a private network resolves (RFC 6761, RFC 6762, ICANN's `.internal`).
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")


class OpenAiTeacher(HostedTeacher):
    """A model behind a chat completions API: vLLM, Ollama, llama.cpp, a gateway."""

    transport = "chat_completions"
    overhead_tokens = 256  # the system prompt of a model's own template included

    def __init__(self, spec: TeacherSpec, project_root: Path, schema: Mapping[str, Any] | None = None) -> None:
        """Args:
        spec: the declaration.
        project_root: where the project's own prices are.
        schema: JSON Schema that answers are held to.
        """
        parameters = {
            "max_tokens": spec.max_tokens,
            "stop_sequences": list(spec.stop_sequences),
            "revision": spec.revision,
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "seed": spec.seed,
        }
        super().__init__(spec, project_root, schema, parameters)
        self.version = f"openai {_installed_version() or 'not installed'}"
        self.requests = Requests(spec, schema)

    def check(self) -> None:
        """Needs the SDK, an address, a price for the model and, but for a server of one's own, a key."""
        if _installed_version() is None:
            raise TeacherError("the openai teacher needs the OpenAI SDK: pip install 'distill-dagster[openai]'")
        url = urlsplit(str(self.spec.base_url))
        if url.scheme not in ("http", "https") or not url.hostname:
            raise TeacherError(
                f"teacher.base_url: {self.spec.base_url!r} is no web address; write e.g. http://localhost:8000/v1"
            )
        _ = self.price
        if not _key() and not is_private(url.hostname):
            raise TeacherError(
                f"the teacher {self.spec.model} at {url.hostname} needs an API key: set {KEY_VARIABLE} and run again "
                "(to any text, if that server asks for none)"
            )

    def answer(self, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
        """Asks with up to `concurrency` requests in flight, a request counting until its answer is durable."""
        from distill_dagster.teachers.asking.conversation import converse
        from distill_dagster.teachers.openai.chat import OpenAiClient

        price, key = self.price, _key() or NO_KEY
        return converse(lambda: OpenAiClient(self.spec, self.requests, price, key), self.spec, batches, desk)


def is_private(host: str) -> bool:
    """Whether a host is this machine or stands in a private network, by its address or name alone."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.lower().rstrip(".")
        return "." not in name or name.endswith(PRIVATE_SUFFIXES)


def _key() -> str:
    return os.environ.get(KEY_VARIABLE, "").strip()


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("openai")
    except importlib.metadata.PackageNotFoundError:
        return None
