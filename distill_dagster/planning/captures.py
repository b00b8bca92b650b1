"""How many sequences would be captured, at most."""

from collections.abc import Collection, Mapping

import polars as pl

from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.build import logits_current
from distill_dagster.project import Distillation
from distill_dagster.prompts.placed import PlacedRows
from distill_dagster.prompts.splits import LEARNT_FROM


def plan_captures(
    distillation: Distillation, due: Mapping[str, PlacedRows], identity: CaptureIdentity, answered: Collection[str]
) -> dict[str, int]:
    """The most sequences that each partition would have captured: its training and validation prompts, once a sample.

    Prompts that are unchanged count only where their answers were not captured as declared.

    Args:
        due: partitions whose captures are not those of their answers.
        answered: partitions whose stored prompts have their answers, so that unchanged ones keep them.
    """
    found = {}
    for name, placed in due.items():
        is_captured = name in answered and not placed.changes_sides and logits_current(distillation, name, identity)
        found[name] = _learnt(placed.fresh if is_captured else placed.coming(["split"])) * _samples(distillation)
    return found


def _learnt(prompts: pl.DataFrame) -> int:
    return prompts.filter(pl.col("split").is_in(LEARNT_FROM)).height


def _samples(distillation: Distillation) -> int:
    """How many answers of a prompt students learn from, at most."""
    teacher = distillation.spec.teacher
    return teacher.samples if teacher.select == "all" else 1
