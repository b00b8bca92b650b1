"""How often the gate passes or fails a student that is worse by exactly its margin, against the report's interval.

    python benchmarks/gate_error_rates.py

The interval is cluster t below 50 groups and the cluster bootstrap from there on, at 90 % two-sided, with a whole alpha
for each look and candidate: what a gate would do that reads the report and keeps no count. It takes a few minutes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gate_scenarios import SCENARIOS, by_gate, by_interval, simulate
from distill_dagster.evaluation.gate import Status


def main() -> None:
    """Prints the table of docs/gate.md."""
    print("| golden set | margin | experiments | gate passes | gate fails | interval passes |")
    print("|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        gate = simulate(scenario, by_gate)
        interval = simulate(scenario, by_interval, split_alpha=False)
        cells = [
            scenario.name,
            f"{scenario.margin:.2f}",
            f"{scenario.experiments:,}",
            *(f"{100 * rate:.1f} %" for rate in (gate[Status.PASS], gate[Status.FAIL], interval[Status.PASS])),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
