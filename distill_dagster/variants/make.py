"""Turns the declared prompt design and each of `teacher.variants` into a distillation of its own, validated anew."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.teacher import VariantSpec

DECLARED = "declared"
PROMPT_KEYS = frozenset({"prompt", "system", "few_shot"})


@dataclass(frozen=True)
class Design:
    """One way to ask the teacher.

    Attributes:
        name: `declared`, or the variant's.
        distillation: the whole declaration with this design in it; hosted answers travel as single messages.
        changes: the variant's keys, as plain JSON values; empty for the declared design.
    """

    name: str
    distillation: Distillation
    changes: Mapping[str, Any]


def make_designs(distillation: Distillation) -> list[Design]:
    """The declared design, then the variants in their order.

    A key that a variant sets to null takes the declared value away; one that it leaves out stays.

    Raises:
        SpecError: there are no variants, one is called `declared`, or one does not fit the rest of the declaration.
    """
    variants = distillation.spec.teacher.variants
    if not variants:
        raise SpecError(
            f"{distillation.name}: there is nothing to compare; write e.g. "
            "`teacher.variants: {brief: {system: Answer in one sentence.}}`"
        )
    if DECLARED in variants:
        raise SpecError(f"teacher.variants.{DECLARED}: the declared design goes by that name; give this one another")
    designs = [Design(DECLARED, _with(distillation, DECLARED, None), {})]
    for name, variant in variants.items():
        changes = variant.model_dump(mode="json", include=variant.model_fields_set)
        designs.append(Design(name, _with(distillation, name, variant), changes))
    return designs


def declared_values(distillation: Distillation) -> dict[str, Any]:
    """What is declared under the keys that any variant changes, as plain JSON values."""
    prompts = distillation.spec.prompts.model_dump(mode="json")
    teacher = distillation.spec.teacher.model_dump(mode="json")
    changed = {key for variant in distillation.spec.teacher.variants.values() for key in variant.model_fields_set}
    keys = [key for key in VariantSpec.model_fields if key in changed]
    return {key: (prompts if key in PROMPT_KEYS else teacher)[key] for key in keys}


def _with(distillation: Distillation, name: str, variant: VariantSpec | None) -> Distillation:
    # Unset keys stay out, because validation asks which ones were written.
    content = distillation.spec.model_dump(exclude_unset=True)
    teacher, prompts = content["teacher"], content["prompts"]
    teacher.pop("variants")
    if distillation.spec.teacher.provider == "anthropic":
        teacher["transport"] = "messages"  # a few dozen answers are wanted now, not within a day
    changes = variant.model_dump(include=variant.model_fields_set) if variant is not None else {}
    for key, value in changes.items():
        (prompts if key in PROMPT_KEYS else teacher)[key] = value
    try:
        spec = DistillationSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError("\n".join(_sentence(name, problem) for problem in error.errors())) from None
    return dataclasses.replace(distillation, spec=spec)


def _sentence(name: str, problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in problem["loc"])
    return f"teacher.variants.{name}: {place}: {message[:1].lower()}{message[1:]}"
