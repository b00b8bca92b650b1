"""Everyday questions with human answers, from the `chatterbot-corpus` package (English, BSD-3)."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import yaml

GOLDEN_ONE_IN = 15


def rows() -> Iterator[dict[str, str]]:
    """Question, answer and topic of every exchange but the golden ones; the files' names are the topics."""
    return (row for row in _exchanges() if not _is_golden(row["question"]))


def golden() -> Iterator[dict[str, str | bool]]:
    """The questions that are held aside for the gate, each with its first answer."""
    seen = set()
    for row in _exchanges():
        key = _key(row["question"])
        if key not in seen and _is_golden(row["question"]):
            seen.add(key)
            yield {**row, "verified": True}


def _is_golden(question: str) -> bool:
    """By hash, so that it depends on no other row."""
    return int(hashlib.sha256(_key(question).encode()).hexdigest(), 16) % GOLDEN_ONE_IN == 0


def _key(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip(" ?.!")


def _exchanges() -> Iterator[dict[str, str]]:
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package chatterbot-corpus is not installed: pip install 'distill-dagster[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "english"
    for file in sorted(folder.glob("*.yml")):
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for question, answer, *_ in content["conversations"]:
            # YAML reads some answers as numbers or dates
            yield {"topic": file.stem, "question": str(question), "answer": str(answer)}
