"""A local server that speaks the API, and no key from outside."""

from collections.abc import Iterator

import pytest

from distill_dagster.teachers.asking import conversation
from tests.fakes.openai_server import KEY, OpenAiServer, openai_server


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAiServer]:
    """A local server with its key in the environment; failures that may pass are asked again at once."""
    monkeypatch.setattr(conversation, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as running:
        yield running
