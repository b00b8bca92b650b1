"""Checks on `prompts`: their columns, and whether lengths and topics have drifted from the version before.

They only warn.
"""

import math
from collections.abc import Callable
from functools import partial

import dagster as dg

from distill_dagster.graph.finding import SCHEMA, Check, Finding, partition_files, schema_finding, table
from distill_dagster.graph.keys import asset_key
from distill_dagster.project import Distillation
from distill_dagster.prompts.drift import MAJOR, Change, Comparison, Drift, drift, length_cells
from distill_dagster.prompts.profile import BINS_PER_OCTAVE, LENGTH_BINS
from distill_dagster.prompts.store import ASSET, PROMPTS_SCHEMA

LENGTHS, TOPICS = "lengths_stable", "topics_stable"
_FIRST = "the first version: there is none before it to compare with"
_SHOWN = 12
Metadata = dict[str, dg.MetadataValue]


def prompt_checks(distillation: Distillation) -> list[Check]:
    """All checks on a distillation's prompts."""
    key = asset_key(distillation.name, ASSET)
    return [
        Check(
            key,
            SCHEMA,
            "Stored prompts have the declared columns.",
            lambda: schema_finding(partition_files(distillation, ASSET), PROMPTS_SCHEMA),
        ),
        Check(
            key,
            LENGTHS,
            "Prompts are as long as in the version before: population stability index over their lengths.",
            partial(_drift, distillation, lengths_stable),
        ),
        Check(
            key,
            TOPICS,
            "Prompts are about the same as in the version before: population stability index over their words, and "
            "over the partitions' shares where a column decides them.",
            partial(_drift, distillation, partial(topics_stable, by=_column(distillation))),
        ),
    ]


def lengths_stable(found: Drift) -> Finding:
    """Compares lengths, of all prompts and of each changed partition."""
    drifted = _drifted(found, "lengths")
    cells = length_cells(found.before, found.now)
    shares = [
        {
            "characters": _range(cell),
            "before": _share(sum(found.before.lengths[bin_] for bin_ in cell), found.before.rows),
            "now": _share(sum(found.now.lengths[bin_] for bin_ in cell), found.now.rows),
        }
        for cell in cells
    ]
    metadata = _measured(found.whole.lengths) | ({"lengths": table(shares)} if shares else {})
    return Finding(not drifted, _said(found, "lengths", drifted, found.whole.lengths), metadata | _partitions(found))


def topics_stable(found: Drift, by: str | None) -> Finding:
    """Compares words, of all prompts and of each changed partition, and the partitions' shares.

    Args:
        by: the column that decides partitions, where one does.
    """
    drifted = _drifted(found, "words")
    metadata = _measured(found.whole.words)
    if by is not None:
        if found.shares is not None and found.shares.has_drifted:
            drifted = [f"the shares of {by} ({found.shares.index:.2f})", *drifted]
        largest = sorted(found.rows.items(), key=lambda item: (-_moved(found, *item[1]), item[0]))
        metadata[f"shares of {by}"] = table(
            [
                {by: name, "before": _share(before, found.before.rows), "now": _share(now, found.now.rows)}
                for name, (before, now) in largest[:_SHOWN]
            ]
        )
    return Finding(not drifted, _said(found, "topics", drifted, found.whole.words), metadata | _partitions(found))


def _drift(distillation: Distillation, find: Callable[[Drift], Finding]) -> Finding:
    found = drift(distillation)
    return Finding(True, _FIRST) if found is None else find(found)


def _column(distillation: Distillation) -> str | None:
    partition = distillation.spec.prompts.partition
    return partition.by if partition is not None else None


def _drifted(found: Drift, what: str) -> list[str]:
    """Where lengths or words have drifted, with the index."""
    names = []
    for one in (found.whole, *found.partitions):
        change: Change | None = getattr(one, what)
        if change is not None and change.has_drifted:
            names.append(f"{one.name or 'all prompts'} ({change.index:.2f})")
    return names


def _said(found: Drift, what: str, drifted: list[str], whole: Change | None) -> str:
    compared = f"{found.now.rows:,} prompts, {found.before.rows:,} in the version before"
    if drifted:
        more = f" and {len(drifted) - _SHOWN} more" if len(drifted) > _SHOWN else ""
        return f"{what} have drifted in {', '.join(drifted[:_SHOWN])}{more}: index above {MAJOR}; {compared}"
    index = "" if whole is None else f" (index {whole.index:.2f}, {MAJOR} is a major shift)"
    return f"{what} as before{index}; {compared}"


def _measured(change: Change | None) -> Metadata:
    if change is None:
        return {}
    return {
        "stability index": dg.MetadataValue.float(round(change.index, 4)),
        "index by chance": dg.MetadataValue.float(round(change.chance, 4)),
    }


def _partitions(found: Drift) -> Metadata:
    """The changed partitions, the most changed first."""
    if not found.partitions:
        return {}
    ranked = sorted(found.partitions, key=lambda one: (-max(_index(one.lengths), _index(one.words)), one.name or ""))
    return {"changed partitions": table([_row(one) for one in ranked[:_SHOWN]])}


def _row(one: Comparison) -> dict[str, str]:
    return {
        "partition": one.name or "all",
        "prompts before": f"{one.rows_before:,}",
        "now": f"{one.rows_now:,}",
        "index of lengths": _shown(one.lengths),
        "index of words": _shown(one.words),
    }


def _shown(change: Change | None) -> str:
    if change is None:
        return "–"
    return f"{change.index:.2f}{' (drifted)' if change.has_drifted else ''}"


def _index(change: Change | None) -> float:
    return 0.0 if change is None else change.index


def _moved(found: Drift, before: int, now: int) -> float:
    return abs(before / max(1, found.before.rows) - now / max(1, found.now.rows))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _range(cell: range) -> str:
    low, high = (math.ceil(2 ** (edge / BINS_PER_OCTAVE) - 1) for edge in (cell.start, cell.stop))
    return f"{low:,} or more" if cell.stop == LENGTH_BINS else f"{low:,} to {high - 1:,}"
