"""The rows that evaluations will be about: those of the coming dataset, or where it is not known those it can have."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from distill_dagster.evaluation.collect import asked_rows
from distill_dagster.plan import PartitionedPlan
from distill_dagster.planning.effects import Downstream
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split


class ComingRows:
    """Test rows of one plan."""

    def __init__(self, distillation: Distillation, upstream: PartitionedPlan, downstream: Downstream) -> None:
        self._distillation = distillation
        self._upstream = upstream
        self._dataset = downstream.dataset_version

    @property
    def are_known(self) -> bool:
        """Whether the dataset is there already."""
        return self._dataset is not None

    @property
    def folder(self) -> Path:
        """The dataset's."""
        return self._distillation.files.asset("dataset") / str(self._dataset)

    def test(self) -> pl.DataFrame:
        """DATASET columns of its test split."""
        return pl.read_parquet(self.folder / "test.parquet")

    def asked(self) -> pl.DataFrame:
        """The same with teacher_messages."""
        return asked_rows(self._distillation, self.folder, self.test())

    def prompts(self, columns: Sequence[str]) -> pl.DataFrame:
        """Some PROMPTS columns of the source's test split; curation may drop some of its prompts and adds none."""
        placed = self._upstream.build.placed.values()
        frames = [one.coming(["split", *columns]).filter(pl.col("split") == Split.TEST.value) for one in placed]
        return pl.concat(frames).select(columns)
