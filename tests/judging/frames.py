"""Reads what a judge is sent, and refuses whatever does not have exactly the frame that it should have."""

import json
import re
from dataclasses import dataclass

NAMES = ("question", "answer 1", "answer 2")
OPENING = re.compile(r"<<question ([0-9a-f]{16})>>")


@dataclass(frozen=True)
class Read:
    """The three texts of a comparison, and what stands outside their frames."""

    question: str
    first: str
    second: str
    mark: str
    outside: str


def read(message: str) -> Read:
    """Parses the user's message line by line."""
    lines = message.split("\n")
    opened = OPENING.fullmatch(lines[0])
    assert opened is not None, lines[0]
    mark, texts = opened[1], []
    for name in NAMES:
        begin, text, end = lines[:3]
        assert (begin, end) == (f"<<{name} {mark}>>", f"<<end {name} {mark}>>")
        texts.append(json.loads(text))
        assert isinstance(texts[-1], str)
        del lines[:3]
    return Read(*texts, mark=mark, outside="\n".join(lines))
