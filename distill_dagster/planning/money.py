"""What the calls of a plan are expected to take, from stored answers and sizes alone."""

from distill_dagster.planning.calls import CallPlan
from distill_dagster.planning.model import CallEstimate
from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.money.estimate import costs_of, declared_budget, output_tokens, transport_of
from distill_dagster.teachers.money.input_tokens import estimate_offline
from distill_dagster.teachers.money.usual import Usual, usual_tokens
from distill_dagster.teachers.openai.teacher import OpenAiTeacher
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.teachers.store.database import reading
from distill_dagster.teachers.store.responses import ResponseStore


def estimate_calls(
    distillation: Distillation, teacher: Teacher, calls: CallPlan, store: ResponseStore | None
) -> CallEstimate | None:
    """Tokens and money of the missing requests; None where none is missing.

    Raises:
        TeacherError: nothing says what the declared model costs.
    """
    missing = calls.missing
    if not missing.count:
        return None
    usual = Usual(0, 0.0, 0.0, "of this teacher")
    if store is not None:
        usual = usual_tokens(store, teacher.identity, calls.answered, sum(map(len, calls.answered)))
    read = estimate_offline(missing, usual)
    written = output_tokens(distillation.spec.teacher.max_tokens, missing.count, usual)
    transport = transport_of(teacher, missing.count).chosen
    found = CallEstimate(
        input_tokens=read.tokens.expected,
        output_tokens=written.expected,
        input_basis=read.tokens.basis,
        output_basis=written.basis,
        transport=transport,
    )
    if not isinstance(teacher, AnthropicTeacher | OpenAiTeacher):
        return found
    singly, batched = costs_of(teacher, missing, read, written)
    cost = batched if transport == "batches" and batched is not None else singly
    return found.model_copy(
        update={
            "expected_microusd": cost.expected_microusd,
            "most_microusd": cost.most_microusd,
            "budget_left_microusd": _left(distillation, store),
        }
    )


def _left(distillation: Distillation, store: ResponseStore | None) -> int | None:
    budget = declared_budget(distillation)
    if budget.limit_microusd is None or store is None:
        return budget.limit_microusd
    with reading(store.engine) as connection:
        return max(0, budget.limit_microusd - budget.spent_in(connection))
