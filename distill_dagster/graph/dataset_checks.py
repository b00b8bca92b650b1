"""Checks on `dataset`: its columns, and that nothing is learnt from that is measured on."""

from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl

from distill_dagster.dataset.build import ASSET, DATASET_SCHEMA
from distill_dagster.dataset.leakage import require_no_golden_rows
from distill_dagster.errors import DatasetError
from distill_dagster.graph.finding import SCHEMA, Check, Finding, schema_finding, table
from distill_dagster.graph.keys import asset_key
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split
from distill_dagster.storage import read_current

LEAKAGE = "no_leakage"
_NONE = "no dataset yet"
_SHOWN = 10


def dataset_checks(distillation: Distillation) -> list[Check]:
    """All checks on a distillation's dataset."""
    key = asset_key(distillation.name, ASSET)
    return [
        Check(key, SCHEMA, "Every split has the declared columns.", partial(_schema, distillation)),
        Check(
            key,
            LEAKAGE,
            "No group is in two splits, and no golden row in train or validation.",
            partial(no_leakage, distillation),
            dg.AssetCheckSeverity.ERROR,
        ),
    ]


def no_leakage(distillation: Distillation) -> Finding:
    """Looks for groups in two splits, and for golden rows in train and validation."""
    splits = _splits(distillation)
    if splits is None:
        return Finding(True, _NONE)
    groups = pl.concat(
        pl.scan_parquet(path).select("group_id", split=pl.lit(split)).unique() for split, path in splits.items()
    )
    shared = (
        groups.group_by("group_id")
        .agg(pl.col("split").sort().str.join(" and "), number=pl.len())
        .filter(pl.col("number") > 1)
        .collect(engine="streaming")
    )
    if not shared.is_empty():
        rows = [{"group": group, "splits": names} for group, names, _ in shared.sort("group_id").head(_SHOWN).rows()]
        number = "a group is" if shared.height == 1 else f"{shared.height:,} groups are"
        said = f"{number} in more than one split; materialise `prompts` and `dataset` again"
        return Finding(False, said, {"groups": table(rows)})
    try:
        require_no_golden_rows(distillation, next(iter(splits.values())).parent.name)
    except DatasetError as error:
        return Finding(False, str(error))
    golden = ", and no golden row is learnt from" if distillation.spec.golden_set is not None else ""
    return Finding(True, f"every group is in one split{golden}")


def _schema(distillation: Distillation) -> Finding:
    splits = _splits(distillation)
    return Finding(True, _NONE) if splits is None else schema_finding(splits.values(), DATASET_SCHEMA)


def _splits(distillation: Distillation) -> dict[str, Path] | None:
    """The files of the current version by split; `held_out` only where it has rows."""
    current = read_current(distillation.files.asset(ASSET))
    if current is None:
        return None
    folder = distillation.files.asset(ASSET) / current.version
    paths = {split.value: folder / f"{split.value}.parquet" for split in Split}
    return {split: path for split, path in paths.items() if path.is_file()}
