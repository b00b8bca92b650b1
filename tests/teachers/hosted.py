"""A declared distillation with a hosted teacher, for tests that ask the local server."""

import json

from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.store import write_prompts
from distill_dagster.teachers.outputs import OutputsBuild, build_outputs, make_teacher
from distill_dagster.worker_process import no_launch

SPEC = """
prompts:
  source: {{jsonl: rows.jsonl}}
  prompt: "{{{{ question }}}}"
  system: Be brief.
teacher:
  provider: anthropic
  model: claude-haiku-4-5
  max_tokens: 50
  concurrency: 4
  {more}
"""


def spec(*more: str) -> str:
    """The declaration, with further lines in its `teacher:` block."""
    return SPEC.format(more="\n  ".join(more))


def rows(count: int, **columns: str) -> str:
    """JSON lines with `count` different questions."""
    return "".join(json.dumps({"question": f"question {number}"} | columns) + "\n" for number in range(count))


def answer(distillation: Distillation, *, wait: bool = True) -> OutputsBuild:
    """Makes prompts and teacher outputs, as a run does."""
    for partition, made in build_prompts(distillation).partitions.items():
        write_prompts(distillation, partition, made)
    teacher = make_teacher(distillation, no_launch)
    return build_outputs(distillation, distillation.files.partitions("prompts"), teacher, wait=wait)
