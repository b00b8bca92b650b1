"""How often the gate passes or fails a student that is worse by exactly its margin, against the report's interval.

    python benchmarks/gate_error_rates.py [rates] [rows]

`rates`: the interval is cluster t below 50 groups and the cluster bootstrap from there on, at 90 % two-sided, with a
whole alpha for each look and candidate: what a gate would do that reads the report and keeps no count. It takes some
minutes.
`rows`: how many yes/no rows pass at each look without a single loss.
"""

import sys
from itertools import count
from math import ceil, log
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gate_scenarios import ALPHA, SCENARIOS, by_gate, by_interval, simulate
from distill_dagster.evaluation.exact_bounds import exact_bounds
from distill_dagster.evaluation.gate import Status
from distill_dagster.evaluation.multiplicity import alpha_of_look

MARGINS = (0.02, 0.05, 0.1, 0.2)


def print_rates() -> None:
    """The first table of docs/gate.md."""
    print("| golden set | margin | experiments | gate passes | gate fails | interval passes |")
    print("|---|---|---|---|---|---|")
    for scenario in SCENARIOS:
        gate = simulate(scenario, by_gate)
        interval = simulate(scenario, by_interval, split_alpha=False)
        rates = (gate[Status.PASS], gate[Status.FAIL], interval[Status.PASS])
        cells = [scenario.name, f"{scenario.margin:.2f}", f"{scenario.experiments:,}"]
        print("| " + " | ".join(cells + [f"{100 * rate:.1f} %" for rate in rates]) + " |", flush=True)


def print_rows() -> None:
    """The second table of docs/gate.md."""
    print("| margin | " + " | ".join(f"{margin:.2f}" for margin in MARGINS) + " |")
    print("|---|" + "---|" * len(MARGINS))
    for candidates, look in ((1, 1), (1, 2), (1, 3), (10, 1)):
        alpha = alpha_of_look(ALPHA, look, candidates)
        rows = [str(_rows_without_loss(alpha, margin)) for margin in MARGINS]
        print(f"| look {look}, candidates {candidates}: alpha {alpha:.4g} | " + " | ".join(rows) + " |", flush=True)


def _rows_without_loss(alpha: float, margin: float) -> int:
    least = ceil(log(alpha) / log(1 - margin))
    return next(n for n in count(least) if exact_bounds(0, 0, n, alpha)[0] > -margin)


if __name__ == "__main__":
    for table in sys.argv[1:] or ("rates", "rows"):
        {"rates": print_rates, "rows": print_rows}[table]()
