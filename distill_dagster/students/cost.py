"""What the teacher's answers behind a dataset did cost."""

from pathlib import Path

import polars as pl

from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation

OUTPUTS = "teacher_outputs/"


def teacher_cost_microusd(distillation: Distillation, dataset: Path) -> int | None:
    """Micro-dollars of all answers that a dataset was curated from, each counted once; None for a local teacher."""
    if distillation.spec.teacher.is_local:
        return None
    inputs: dict[str, str] = read_manifest(dataset)["inputs"]
    files = [
        distillation.files.asset("teacher_outputs", name.removeprefix(OUTPUTS)) / f"{version}.parquet"
        for name, version in inputs.items()
        if name.startswith(OUTPUTS)
    ]
    costs = pl.concat(pl.scan_parquet(file).select("request_key", "cost_microusd") for file in files)
    return int(costs.unique("request_key").select(pl.col("cost_microusd").sum()).collect(engine="streaming").item())
