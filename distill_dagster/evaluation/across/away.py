"""Compares two evaluations on the partitions that both held out, apart from the rows of their test splits."""

from distill_dagster.evaluation.across.measures import compare_measures
from distill_dagster.evaluation.across.model import ComparedTable, Part, SharedRows, lacking, sides_without
from distill_dagster.evaluation.across.pairing import pair
from distill_dagster.evaluation.across.stored import StoredEvaluation
from distill_dagster.prompts.splits import Split

_TABLES: dict[ComparedTable, ComparedTable] = {"quality": "held_out_quality", "fidelity": "held_out_fidelity"}


def compare_held_out(a: StoredEvaluation, b: StoredEvaluation) -> tuple[Part, SharedRows | None]:
    """The measures of quality and fidelity on held-out rows with the same prompt, and what became of those rows.

    Raises:
        StorageError: the predictions of one cannot be read.
    """
    left, right = a.report.on_held_out(), b.report.on_held_out()
    if left is None and right is None:
        return Part([], []), None
    if left is None or right is None:
        return lacking("held_out_quality", f"no partition is held out in {sides_without(left, right)}"), None
    paired = pair(a.predictions(Split.HELD_OUT), b.predictions(Split.HELD_OUT))
    if not paired.rows.both:
        return lacking("held_out_quality", "no held-out row has the same prompt in both"), paired.rows
    found = compare_measures(left, right, paired)
    part = Part(
        [one.model_copy(update={"table": _TABLES.get(one.table, one.table)}) for one in found.measures],
        [one.model_copy(update={"table": _TABLES.get(one.table, one.table)}) for one in found.not_compared],
    )
    return part, paired.rows
