"""What the tests of OpenAI-compatible teachers share: a teacher at a server, requests, and where answers go."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.asking.conversation import Answered, Failed
from distill_dagster.teachers.openai.chat import OpenAiClient
from distill_dagster.teachers.openai.teacher import OpenAiTeacher
from distill_dagster.teachers.protocol import Response, Unanswered
from tests.fakes.openai_server import KEY, MODEL, OpenAiServer, Reply

FREE = {"input": 0, "output": 0}
PAID = {"input": 1, "output": 4}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass
class MemoryDesk:
    """Keeps answers in memory; `room` says for how many lost answers the budget has room."""

    answers: dict[str, Response] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    room: int = 1_000

    def deliver(self, answers: Sequence[Response]) -> None:
        self.answers |= {answer.request_key: answer for answer in answers}

    def lost(self, request_key: str) -> bool:
        self.losses.append(request_key)
        return len(self.losses) <= self.room


def teacher_at(url: str, *, schema: dict[str, Any] | None = None, **more: Any) -> OpenAiTeacher:
    declared = {"model": MODEL, "max_tokens": 50, "concurrency": 4, "prices": PAID} | more
    spec = TeacherSpec.model_validate({"provider": "openai", "base_url": url, **declared})
    return OpenAiTeacher(spec, Path("/nowhere"), schema)


def requests_for(teacher: OpenAiTeacher, count: int = 1, samples: int = 1) -> pl.DataFrame:
    asked = [
        {
            "messages": canonical_json(
                [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {number}"}]
            ),
            "sample": sample,
        }
        for number in range(count)
        for sample in range(samples)
    ]
    frame = pl.DataFrame(asked, schema={"messages": pl.String, "sample": pl.Int32})
    return frame.with_columns(teacher.identity.request_keys(frame))


def ask(teacher: OpenAiTeacher, desk: MemoryDesk, count: int = 1, samples: int = 1) -> Unanswered:
    return teacher.answer(iter([requests_for(teacher, count, samples)]), desk)


def only_answer(teacher: OpenAiTeacher) -> Response:
    desk = MemoryDesk()
    left = ask(teacher, desk)
    assert len(left) == 0, left
    (answer,) = desk.answers.values()
    return answer


def send(teacher: OpenAiTeacher) -> Answered | Failed:
    """What one request comes to."""

    async def once() -> Answered | Failed:
        async with aclosing(OpenAiClient(teacher.spec, teacher.requests, teacher.price, KEY)) as client:
            return await client.send("key", requests_for(teacher)["messages"].item(), 0)

    return asyncio.run(once())


def always(server: OpenAiServer, reply: Reply) -> None:
    server.script = lambda body, seen: reply
