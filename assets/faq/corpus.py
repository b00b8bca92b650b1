"""Everyday questions with human answers, from the `chatterbot-corpus` package (English, BSD-3)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import yaml


def rows() -> Iterator[dict[str, str]]:
    """Question, answer and topic of every exchange; the files' names are the topics."""
    spec = importlib.util.find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package chatterbot-corpus is not installed: pip install 'distill-dagster[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "english"
    for file in sorted(folder.glob("*.yml")):
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for question, answer, *_ in content["conversations"]:
            # YAML reads some answers as numbers or dates
            yield {"topic": file.stem, "question": str(question), "answer": str(answer)}
