"""The last look before a student learns from a dataset, or is judged: does it hold a golden row?"""

from pathlib import Path

import polars as pl

from distill_dagster.dataset.curate import golden_leakage
from distill_dagster.errors import DatasetError
from distill_dagster.golden.build import golden_version, read_golden_set
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import LEARNT_FROM

_SHOWN = 5


def require_no_golden_rows(distillation: Distillation, dataset: str) -> None:
    """Makes sure that a dataset's train and validation rows ask nothing that the golden set asks.

    Building the dataset leaves such rows out; this finds one that came in on another way.

    Args:
        dataset: the version that is learnt from.

    Raises:
        DatasetError: naming the rows.
    """
    version = golden_version(distillation)
    if version is None:
        return
    golden = read_golden_set(distillation, version)
    folder = distillation.files.asset("dataset") / dataset
    rows = pl.concat(_prompts(folder / f"{split}.parquet", split) for split in LEARNT_FROM)
    found = golden_leakage(rows.unique("prompt_id"), golden, distillation.spec.curation.near_duplicate_threshold)
    if found.is_empty():
        return
    pairs = [f"{prompt_id} (golden {other})" for prompt_id, other in found.head(_SHOWN).iter_rows()]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise DatasetError(
        f"{distillation.name}: dataset {dataset} holds {len(found)} rows of the golden set, so a verdict on its "
        f"students would be worth nothing: {', '.join(pairs)}{more}; materialise `golden_set` and `dataset` again"
    )


def _prompts(file: Path, split: str) -> pl.DataFrame:
    rows = pl.read_parquet(file, columns=["prompt_id", "text", "messages"])
    return rows.rename({"messages": "student_messages"}).with_columns(split=pl.lit(split))
