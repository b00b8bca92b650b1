"""Makes the declared teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_dagster.project import Distillation
from distill_dagster.prompts.messages import few_shot_turns
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.answers.assessment import Assessor
from distill_dagster.teachers.answers.validity import load_schema
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.local.teacher import LocalTeacher
from distill_dagster.teachers.openai.teacher import OpenAiTeacher
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.worker_process import Launch


def make_teacher(distillation: Distillation, launch: Launch) -> Teacher:
    """The declared teacher.

    Raises:
        TeacherError: a local model that is not there.
        SpecError: a JSON Schema that cannot be used.
    """
    spec, root = distillation.spec.teacher, distillation.project.root
    if spec.is_local:
        return LocalTeacher(distillation, launch)
    schema = load_schema(spec.json_schema, distillation.folder, root) if spec.json_schema is not None else None
    shared = few_shot_turns(distillation.spec.prompts.few_shot, distillation.folder, root)
    return _hosted(spec, root, schema, len(shared))


def make_judge(distillation: Distillation, assessor: Assessor) -> Teacher | None:
    """The judge that scores samples, where one is declared."""
    spec = assessor.judge_teacher
    if spec is None:
        return None
    assert isinstance(spec.json_schema, dict)
    return _hosted(spec, distillation.project.root, spec.json_schema, 0)


def _hosted(spec: TeacherSpec, root: Path, schema: Mapping[str, Any] | None, shared_turns: int) -> Teacher:
    if spec.provider == "openai":
        return OpenAiTeacher(spec, root, schema)
    return AnthropicTeacher(spec, root, schema, shared_turns)
