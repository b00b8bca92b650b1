"""An OpenAI-compatible teacher before it is asked: its identity, its key and its address."""

import importlib.metadata
import subprocess
import sys
from typing import Any

import pytest

from distill_dagster.errors import TeacherError
from distill_dagster.teachers.openai.teacher import is_private
from tests.fakes.openai_server import KEY, MODEL, OpenAiServer
from tests.teachers.openai.asking import FREE, SCHEMA, MemoryDesk, ask, only_answer, requests_for, teacher_at


def test_the_identity_holds_what_changes_answers() -> None:
    teacher = teacher_at(
        "http://localhost:8000/v1", revision="abc", temperature=0.5, top_p=0.9, seed=7, stop_sequences=["END"]
    )

    assert teacher.identity.provider == "openai"
    assert teacher.identity.model == MODEL
    assert teacher.identity.parameters == {
        "max_tokens": 50,
        "stop_sequences": ["END"],
        "revision": "abc",
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
    }


@pytest.mark.parametrize(
    "other",
    [{"revision": "b"}, {"temperature": 0.1}, {"top_p": 0.5}, {"seed": 1}, {"max_tokens": 9}, {"schema": SCHEMA}],
)
def test_another_way_of_asking_is_another_identity(other: dict[str, Any]) -> None:
    assert teacher_at("http://a/v1").identity.digest != teacher_at("http://a/v1", **other).identity.digest


def test_two_replicas_are_one_teacher() -> None:
    one, two = teacher_at("http://a/v1"), teacher_at("http://b/v1", concurrency=9, prices=FREE)

    assert requests_for(one, 3).equals(requests_for(two, 3))


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("100.100.1.1", True),
        ("vllm", True),
        ("gpu.local", True),
        ("host.docker.internal", True),
        ("8.8.8.8", False),
        ("api.openai.com", False),
        ("localhost.example.com", False),
    ],
)
def test_private_addresses_are_told_from_public_ones(host: str, private: bool) -> None:
    assert is_private(host) is private


def test_a_public_server_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_at("https://gateway.example.com/v1")

    with pytest.raises(TeacherError, match="set OPENAI_API_KEY"):
        teacher.check()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher.check()


def test_a_server_on_this_machine_needs_none(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server.key = None
    teacher = teacher_at(server.url)

    teacher.check()

    assert only_answer(teacher).status == "answered"
    assert server.authorizations == ["Bearer none"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost/v1", "http:///v1"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(TeacherError, match=r"write e\.g\. http://localhost:8000/v1"):
        teacher_at(url).check()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    with pytest.raises(TeacherError, match=r"pip install 'distill-dagster\[openai\]'"):
        teacher_at("http://localhost:8000/v1").check()


def test_a_key_that_the_server_repeats_is_not_told_on(server: OpenAiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-but-secret")

    left = ask(teacher_at(server.url), MemoryDesk(), count=50)

    assert "set a valid OPENAI_API_KEY" in str(left.stop)
    assert "Bearer [key]" in str(left.stop)
    assert "sk-wrong-but-secret" not in repr(left)
    assert len(left.unbilled) == 50
    assert server.accepted == []


def test_the_sdk_is_loaded_only_to_ask() -> None:
    """It is an optional extra, and takes a second to import."""
    code = "import sys, distill_dagster.teachers.openai.teacher; assert 'openai' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
