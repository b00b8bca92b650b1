"""Peak memory of answering 100,000 prompts against 5,000, over each transport: from Parquet to written outputs.

    python benchmarks/teacher_memory.py [--small 5000] [--large 100000] [--transport messages]

Each size runs in a process of its own against a local server in another. Prompts are made beforehand, so what counts
is the `teacher_outputs` stage: requests streamed in, answers stored, Parquet and JSON lines written.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

DEFS = """type: distill_dagster.Distillation
attributes:
  prompts:
    source: {{jsonl: rows.jsonl}}
    prompt: "{{{{ question }}}}"
    system: Be brief.
  teacher:
    provider: anthropic
    model: claude-haiku-4-5
    max_tokens: 300
    concurrency: 64
    budget_usd: 1000
    transport: {transport}
"""
MIB = 2**20


def peak_bytes(count: int, transport: str) -> int:
    """Peak resident memory of the process that answers `count` prompts."""
    from distill_dagster.project import find_project
    from distill_dagster.prompts.build import build_prompts
    from distill_dagster.prompts.store import write_prompts
    from tests.fakes.anthropic_server import KEY, serve_process
    from tests.teachers.answering_process import start

    with tempfile.TemporaryDirectory() as folder, serve_process() as url:
        assets = Path(folder) / "assets" / "bench"
        assets.mkdir(parents=True)
        (assets / "defs.yaml").write_text(DEFS.format(transport=transport), encoding="utf-8")
        with (assets / "rows.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                text = f"Question {number}: what should a reader know about item {number}? " + "more words " * 15
                file.write(json.dumps({"question": text}) + "\n")
        distillation = find_project(folder).distillation("bench")
        write_prompts(distillation, "all", build_prompts(distillation).partitions["all"])
        process = start(Path(folder), "bench", environment={"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url})
        assert process.stdout is not None
        outcome = json.loads(process.stdout.readline())
        assert process.wait() == 0
        assert outcome["failed"] == {}
        assert outcome["answered"] == count
        return int(outcome["peak_memory_bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=5_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--transport", choices=["messages", "batches"], action="append")
    options = parser.parse_args()
    for transport in options.transport or ["messages", "batches"]:
        small, large = peak_bytes(options.small, transport), peak_bytes(options.large, transport)
        print(f"{transport}: {options.small:,} prompts {small / MIB:.0f} MiB; {options.large:,} {large / MIB:.0f} MiB")
        print(f"ratio: {large / small:.2f} (at most 1.3)")


if __name__ == "__main__":
    main()
