"""A hosted distillation in a few lines."""

import json
from collections.abc import Callable

from distill_dagster.project import Distillation

Declare = Callable[..., Distillation]


def rows(**topics: int) -> str:
    """JSON lines: so many questions a topic."""
    lines = [
        {"topic": topic, "question": f"{topic} question {number}"}
        for topic, count in topics.items()
        for number in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def spec(students: str = "", **teacher: object) -> str:
    """A declaration, with further keys of its teacher."""
    keys = {"provider": "anthropic", "model": "claude-haiku-4-5", "max_tokens": 50, **teacher}
    return (
        'prompts:\n  source: {jsonl: rows.jsonl}\n  prompt: "{{ question }}"\n  partition: {by: topic}\n'
        f"teacher: {json.dumps(keys)}\n{students}"
    )
