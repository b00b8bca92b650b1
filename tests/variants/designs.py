"""A distillation with two variants of its prompt design, and a teacher that answers each design in its own way."""

import json

from tests.fakes.anthropic_faults import Body
from tests.fakes.anthropic_server import Reply, prompt_of

SPEC = """
prompts:
  source: {jsonl: rows.jsonl}
  prompt: "{{ question }}"
  system: Be thorough.
  reference: answer
  id: key
  group: customer
  split: {validation: 0.5, test: 0.1}
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  max_tokens: 200
  concurrency: 8
  transport: batches
  budget_usd: 1
  variants:
    brief: {system: Be brief.}
    opus: {model: claude-opus-5-5, prompt: "Kindly: {{ question }}"}
evaluation: {metrics: [rouge_l, chrf]}
"""


def rows(count: int, *, reference: bool = True, customers: int = 1_000) -> str:
    """JSON lines; several rows can belong to one customer."""
    lines = []
    for number in range(count):
        row = {"key": f"row{number}", "customer": f"c{number % customers}", "question": f"question {number}?"}
        if reference:
            row["answer"] = f"Answer {number} is the right one."
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def script(body: Body, seen: int) -> Reply:
    """Brief answers are to the point, thorough ones are not; rows that end in 7 are refused by the declared design."""
    prompt, system = prompt_of(body), str(body.get("system"))
    number = "".join(character for character in prompt if character.isdigit())
    if body["model"] == "claude-opus-5-5":
        return Reply(text=f"Answer {number} is the right one, surely.")
    if "brief" in system:
        return Reply(text=f"Answer {number} is the right one.")
    if number.endswith("7"):
        details = {"type": "refusal", "category": "bio", "explanation": None}
        return Reply(stop_reason="refusal", stop_details=details, blocks=[])
    return Reply(text=f"Well, let us think about {number} at length before saying anything. " * (2 + int(number) % 5))
