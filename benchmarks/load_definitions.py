"""How long Dagster takes to load a project of N distillations, against importing Dagster alone: a ratio of one run.

python benchmarks/load_definitions.py [--distillations 20] [--repeats 5]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
LOAD = "from distill_dagster.definitions import defs; defs().resolve_all_asset_keys()"


def seconds(code: str, folder: Path) -> float:
    """Wall time of a fresh interpreter that runs `code` in `folder`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Prints medians of interleaved runs, and their ratio."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--distillations", type=int, default=20)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for number in range(given.distillations):
            shutil.copytree(REPOSITORY / "assets" / "support_claude", root / "assets" / f"support_{number}")
        seconds(LOAD, root)  # writes the bytecode caches
        pairs = [(seconds("import dagster", root), seconds(LOAD, root)) for _ in range(given.repeats)]
    dagster, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"import dagster: {dagster:.2f} s; load {given.distillations} distillations: {ours:.2f} s")
    print(f"ratio: {ours / dagster:.2f}")


if __name__ == "__main__":
    main()
