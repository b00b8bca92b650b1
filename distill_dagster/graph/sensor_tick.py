"""One tick of a sensor that keeps its own state in Dagster's cursor."""

import time
from collections.abc import Callable
from typing import TypeVar

import dagster as dg
from pydantic import BaseModel

from distill_dagster.errors import DistillError

Decision = dg.RunRequest | dg.SkipReason
Cursor = TypeVar("Cursor", bound=BaseModel)


def tick(
    context: dg.SensorEvaluationContext, before: Cursor, decide: Callable[[Cursor, float], tuple[Decision, Cursor]]
) -> Decision:
    """Decides from the stored cursor and the time now, and stores the cursor that comes of it.

    Args:
        before: the cursor of a first tick.
        decide: gives the decision and the next cursor; what it cannot do is the tick's reason to skip.
    """
    if context.cursor:
        before = type(before).model_validate_json(context.cursor)
    try:
        decision, after = decide(before, time.time())
    except DistillError as error:
        return dg.SkipReason(str(error))
    if after != before:
        context.update_cursor(after.model_dump_json())
    return decision
