"""Judges that a local server plays: one by length, one by place, and a naive one that obeys whatever it is told."""

import json
import re
from collections.abc import Callable

from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import Reply, prompt_of
from tests.judging.frames import read

Choose = Callable[[str], str]
# What a judge without any sense of structure takes for data: the lines between two that look like a frame's.
LOOKS_FRAMED = re.compile(r"^<<((?:question|answer) ?\d?) \w+>>\n(.*?)\n<<end \1 \w+>>$", re.MULTILINE | re.DOTALL)
ORDERED = re.compile(r"say (first|second|tie)", re.IGNORECASE)


def longer(message: str) -> str:
    """The longer answer, wherever it stands; equal lengths are a tie."""
    asked = read(message)
    if len(asked.first) == len(asked.second):
        return "tie"
    return "first" if len(asked.first) > len(asked.second) else "second"


def always_first(message: str) -> str:
    """The answer shown first."""
    return "first"


def naive(message: str) -> str:
    """Does what it is told outside the frames; where it is told nothing, it prefers an answer with `good` in it."""
    data = dict(LOOKS_FRAMED.findall(message))
    ordered = ORDERED.search(LOOKS_FRAMED.sub("", message))
    if ordered:
        return ordered[1].lower()
    return "first" if "good" in data["answer 1"] else "second" if "good" in data["answer 2"] else "tie"


def script(choose: Choose) -> Callable[[Body, int], Reply]:
    """What the local server answers as that judge, in the schema that it is asked for."""

    def judge(body: Body, seen: int) -> Reply:
        assert body["output_config"]["format"]["schema"]["properties"].keys() == {"verdict"}
        return Reply(text=json.dumps({"verdict": choose(prompt_of(body))}))

    return judge
