"""Makes the teacher outputs of a distillation in a process of its own, for tests that kill it or measure it.

`python -m tests.teachers.answering_process PROJECT NAME [PARTS]`: prints `ready` before it asks anything, and JSON with
the outcome and its peak memory at the end. PARTS is the most requests of one provider batch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from distill_dagster.process import peak_memory_bytes
from distill_dagster.project import find_project
from distill_dagster.teachers.anthropic import batch_parts, batching
from distill_dagster.teachers.outputs import build_outputs, make_teacher
from distill_dagster.worker_process import no_launch

REPOSITORY = Path(__file__).parents[2]


def start(
    project: Path, name: str, parts: int | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A started process that has said it is ready.

    Args:
        environment: variables beside those of this process.
    """
    command = [sys.executable, "-m", "tests.teachers.answering_process", str(project), name]
    command += [str(parts)] if parts is not None else []
    variables = {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def main() -> None:
    """Runs to the end, with short waits for batches."""
    project, name, *parts = sys.argv[1:]
    batching.FIRST_POLL_S = batching.LONGEST_POLL_S = 0.02
    batching.GRACE_S = 0.5
    if parts:
        batch_parts.MOST_REQUESTS = int(parts[0])
    distillation = find_project(project).distillation(name)
    teacher = make_teacher(distillation, no_launch)
    __import__("anthropic")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    build = build_outputs(distillation, distillation.files.partitions("prompts"), teacher)
    outcome = {"failed": build.failed, "answered": build.asked.answered, "peak_memory_bytes": peak_memory_bytes()}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
