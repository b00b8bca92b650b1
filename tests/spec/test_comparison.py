"""What `evaluation:` says of held-out partitions, the teacher's second answer and the machine's price."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.spec.distillation import DistillationSpec

Declare = Callable[..., Distillation]
HOSTED = {"provider": "openai", "model": "m", "base_url": "http://localhost:1/v1"}
LOCAL = {"provider": "transformers", "model": "m"}


def spec(teacher: dict[str, Any], partition: bool = True, **evaluation: Any) -> DistillationSpec:
    by = {"partition": {"by": "topic"}} if partition else {}
    prompts = {"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}", **by}
    return DistillationSpec.model_validate({"prompts": prompts, "teacher": teacher, "evaluation": evaluation})


def complaint(teacher: dict[str, Any], partition: bool = True, **evaluation: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(teacher, partition, **evaluation)
    return str(caught.value)


def test_by_default_nothing_is_held_out_asked_again_or_priced() -> None:
    evaluation = spec(HOSTED).evaluation

    assert (evaluation.held_out_partitions, evaluation.teacher_resample, evaluation.cost) == ([], False, None)


@pytest.mark.parametrize("wanted", [True, False, 1, 200])
def test_all_test_prompts_are_asked_again_or_so_many(wanted: bool | int) -> None:
    kept = spec(HOSTED, teacher_resample=wanted).evaluation.teacher_resample

    assert (kept, type(kept)) == (wanted, type(wanted))


@pytest.mark.parametrize("wanted", [0, -1, "many", 2.5])
def test_other_numbers_of_prompts_are_refused(wanted: object) -> None:
    assert f"write true for every test prompt, a number of them, or false (seen: {wanted!r})" in complaint(
        HOSTED, teacher_resample=wanted
    )


@pytest.mark.parametrize(
    ("teacher", "why"),
    [(LOCAL, "a local teacher answers greedily"), ({**HOSTED, "temperature": 0}, "teacher.temperature is 0")],
)
def test_a_teacher_that_would_say_the_same_again_is_not_asked_again(teacher: dict[str, Any], why: str) -> None:
    assert f"teacher_resample: {why}, so a second answer repeats the first" in complaint(teacher, teacher_resample=True)


def test_partitions_have_to_be_declared_before_one_is_held_out() -> None:
    assert "there are no partitions; write `prompts.partition" in complaint(
        LOCAL, partition=False, held_out_partitions=["law"]
    )


def test_names_that_yaml_reads_as_something_else_are_told(declare: Declare) -> None:
    written = (
        'prompts:\n  source: {jsonl: "*.jsonl"}\n  prompt: "{{ q }}"\n  partition: {daily: day, start: 2026-01-01}\n'
        "teacher: {provider: transformers, model: m}\nevaluation: {held_out_partitions: [2026-01-31]}"
    )

    with pytest.raises(SpecError, match=r"evaluation\.held_out_partitions: YAML reads .* write names in quotes"):
        declare(written)


def test_a_machine_costs_something(declare: Declare) -> None:
    cost = spec(HOSTED, cost={"usd_per_hour": "2.5"}).evaluation.cost

    assert cost is not None
    assert cost.usd_per_hour == Decimal("2.5")
    assert "greater than 0" in complaint(HOSTED, cost={"usd_per_hour": 0})
