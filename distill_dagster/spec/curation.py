"""The `student_prompt:` and `curation:` blocks: what students read, and which rows they never see."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from distill_dagster.spec.base import SpecModel


class DropReason(StrEnum):
    """Why a row is not in the dataset, in the order in which reasons are given."""

    ERROR = "error"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    TOOL_USE = "tool_use"
    EMPTY = "empty"
    INVALID_LABEL = "invalid_label"
    INVALID_JSON = "invalid_json"
    NOT_SELECTED = "not_selected"
    GOLDEN_LEAKAGE = "golden_leakage"
    HELD_OUT_GROUP = "held_out_group"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    TEST_LEAKAGE = "test_leakage"


Droppable = Literal["refused", "truncated", "empty", "duplicate", "near_duplicate", "test_leakage"]


class StudentPromptSpec(SpecModel):
    """What students read of the teacher's prompt."""

    system: bool = Field(True, description="Whether students read the teacher's system prompt.")
    few_shot: bool = Field(False, description="Whether students read the few-shot examples.")


class CurationSpec(SpecModel):
    """Which teacher outputs are kept out of the dataset."""

    drop: list[Droppable] = Field(
        ["refused", "truncated", "empty", "duplicate", "near_duplicate", "test_leakage"],
        description="Reasons to leave an answer out. Refused and empty ones are left out in any case.",
    )
    near_duplicate_threshold: float = Field(
        0.85, gt=0, le=1, description="Jaccard similarity of two prompts' character 5-grams at which they count as one."
    )
    thinking: Literal["exclude", "include"] = Field(
        "exclude", description="Whether a local teacher's <think>…</think> is part of the training target."
    )
    allow_missing: bool = Field(False, description="Build although a current partition has no teacher outputs yet.")
