"""A distillation whose evaluation has a judge, and pairs of answers for it."""

import polars as pl

from distill_dagster.judging.pairs import PAIRS

SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
  reference: answer
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  budget_usd: {budget}
evaluation:
  judge:
    provider: anthropic
    model: {model}
    rubric: Kind and true.
    {more}
"""


def spec(*more: str, model: str = "claude-opus-5-5", budget: float = 5) -> str:
    """The declaration, with further lines in its `judge:` block."""
    return SPEC.format(model=model, budget=budget, more="\n    ".join(more))


def pairs(*answers: tuple[str | None, str | None], opponent: str = "teacher") -> pl.DataFrame:
    """The student's answers and the other's, each pair to a question and in a group of its own."""
    rows = [
        (f"p{number}", 0, f"g{number}", f"Question {number}?", student, other, opponent)
        for number, (student, other) in enumerate(answers)
    ]
    return pl.DataFrame(rows, schema=PAIRS, orient="row")
