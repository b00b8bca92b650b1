"""What the calls of a plan are expected to cost, from stored answers and sizes alone."""

from distill_dagster.planning.calls import CallPlan
from distill_dagster.planning.model import CallEstimate
from distill_dagster.project import Distillation
from distill_dagster.teachers.money.estimate import offline_estimate
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.teachers.store.responses import ResponseStore


def estimate_calls(
    distillation: Distillation, teacher: Teacher, calls: CallPlan, store: ResponseStore | None
) -> CallEstimate | None:
    """Tokens and money of the missing requests; None where none is missing.

    Raises:
        TeacherError: the declared model has no price.
    """
    if not calls.missing.count:
        return None
    found = offline_estimate(distillation, teacher, calls.missing, calls.answered, store)
    assert found.input_tokens is not None
    assert found.output_tokens is not None
    return CallEstimate(
        input_tokens=found.input_tokens.expected,
        output_tokens=found.output_tokens.expected,
        input_basis=found.input_tokens.basis,
        output_basis=found.output_tokens.basis,
        transport=found.transport.chosen,
        expected_microusd=found.cost.expected_microusd if found.cost else None,
        most_microusd=found.cost.most_microusd if found.cost else None,
        budget_left_microusd=found.budget.left_microusd if found.budget else None,
    )
