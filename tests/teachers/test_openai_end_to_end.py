"""Answers of OpenAI-compatible servers on their way into the store: a strict stand-in, and transformers' own server."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.outputs import OutputsBuild, build_outputs, make_teacher, read_outputs
from distill_dagster.worker_process import no_launch
from tests.fakes.openai_server import KEY, MODEL, OpenAiServer, Reply, openai_server
from tests.tiny import LESSONS

Declare = Callable[..., Distillation]
SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
teacher:
  provider: openai
  model: {model}
  base_url: {url}
  max_tokens: {max_tokens}
  concurrency: 4
  prices: {{input: 0, output: 0}}
  {more}
"""
START_S = 120.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAiServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server() as running:
        yield running


def spec_for(url: str, model: str = MODEL, max_tokens: int = 50, more: str = "") -> str:
    return SPEC.format(url=url, model=model, max_tokens=max_tokens, more=more)


def rows(questions: list[str]) -> str:
    return "".join(json.dumps({"question": question}) + "\n" for question in questions)


def answer(distillation: Distillation) -> OutputsBuild:
    for partition, made in build_prompts(distillation).partitions.items():
        write_prompts(distillation, partition, made)
    return build_outputs(distillation, ["all"], make_teacher(distillation, no_launch))


def test_answers_are_stored_and_asked_for_once(declare: Declare, server: OpenAiServer) -> None:
    server.script = lambda body, seen: Reply(text="Yes.", message={"reasoning_content": "Let me see."})
    first = answer(declare(spec_for(server.url), rows__jsonl=rows([f"question {n}" for n in range(6)])))
    again = declare(spec_for(server.url), rows__jsonl=rows([f"question {n}" for n in range(8)]))
    build = answer(again)

    outputs = read_outputs(again, "all")
    assert first.failed == build.failed == {}
    assert (build.asked.stored, build.asked.answered) == (6, 2)
    assert sorted(server.accepted) == [f"question {n}" for n in range(8)]
    assert outputs["thinking"].unique().to_list() == ["Let me see."]
    assert outputs["status"].unique().to_list() == ["answered"]


def test_samples_are_asked_with_their_own_seeds(declare: Declare, server: OpenAiServer) -> None:
    distillation = declare(spec_for(server.url, more="samples: 3\n  seed: 5"), rows__jsonl=rows(["one", "two"]))

    assert answer(distillation).failed == {}

    asked = sorted((body["messages"][-1]["content"], body["seed"]) for body in server.bodies)
    assert asked == [(question, seed) for question in ("one", "two") for seed in (5, 6, 7)]


def test_a_run_that_was_stopped_goes_on_where_it_was(declare: Declare, server: OpenAiServer) -> None:
    broke = Reply(status=429, error_code="insufficient_quota")
    server.script = lambda body, seen: broke if len(server.accepted) >= 3 else Reply()
    questions = rows([f"question {n}" for n in range(20)])

    stopped = answer(declare(spec_for(server.url), rows__jsonl=questions))
    server.script = lambda body, seen: Reply()
    done = answer(declare(spec_for(server.url), rows__jsonl=questions))

    assert "no credit left" in stopped.failed["all"]
    assert done.failed == {}
    assert len(server.accepted) == len(set(server.accepted)) == 20


def test_the_key_is_nowhere_on_disk(declare: Declare, server: OpenAiServer) -> None:
    """Not even where the server repeats it."""
    told = Reply(status=400, error_message=f"what is {KEY}?")
    server.script = lambda body, seen: told if body["messages"][-1]["content"] == "bad" else Reply()
    distillation = declare(spec_for(server.url), rows__jsonl=rows(["good", "bad"]))

    answer(distillation)

    assert "what is [key]?" in " ".join(filter(None, read_outputs(distillation, "all")["detail"]))
    files = [path for path in Path(distillation.project.home).rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_a_real_server_answers(declare: Declare, tiny_model: Path, tmp_path: Path) -> None:
    """`transformers serve`, with a model that has learned a few answers."""
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("`transformers serve` needs fastapi, which is not installed: pip install fastapi")
    questions = rows(list(LESSONS))
    with transformers_serve(tiny_model, tmp_path / "serve.log") as url:
        whole = declare(spec_for(url, str(tiny_model), more="temperature: 0"), name="whole", rows__jsonl=questions)
        short = declare(spec_for(url, str(tiny_model), 3, "temperature: 0"), name="short", rows__jsonl=questions)
        builds = answer(whole), answer(short)

    assert [build.failed for build in builds] == [{}, {}]
    outputs = read_outputs(whole, "all")
    assert sorted(outputs["completion"]) == sorted(LESSONS.values())
    assert outputs["status"].unique().to_list() == ["answered"]
    assert outputs["input_tokens"].gt(0).all()
    assert read_outputs(short, "all")["status"].unique().to_list() == ["truncated"]
    assert read_outputs(short, "all")["output_tokens"].unique().to_list() == [3]


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """The base URL of a server of one model, in a process of its own that ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as output, subprocess.Popen([*command, *options], stdout=output, stderr=output) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            assert time.monotonic() < deadline, f"no answer in {START_S:.0f} seconds"
            time.sleep(0.2)
