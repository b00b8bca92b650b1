"""Names the fields of the declaration that differ from those that something was made under."""

from collections.abc import Iterator, Mapping
from typing import Any

from distill_dagster.lineage.builds import Builds
from distill_dagster.plan import PartitionedPlan
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild
from distill_dagster.prompts.changes import Changes
from distill_dagster.prompts.store import read_settings
from distill_dagster.storage import read_current
from distill_dagster.teachers.answered_by import read_teacher, teacher_fields
from distill_dagster.teachers.outputs import ASSET as OUTPUTS
from distill_dagster.teachers.protocol import TeacherIdentity

UNRECORDED = "the declaration changed"


def changed_fields(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    """Dotted names of the fields whose values differ, sorted; one whose block is new or gone is named as a whole."""
    return sorted(_changed(before, now, prefix))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name in {*before, *now}:
        old, new = before.get(name), now.get(name)
        where = f"{prefix}.{name}" if prefix else name
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, where)
        elif old != new:
            yield where


class PromptCauses:
    """Why partitions' prompts are not those that are stored."""

    def __init__(self, distillation: Distillation, build: PromptBuild) -> None:
        self._distillation = distillation
        self._build = build
        self._fields: dict[str, list[str]] = {}

    def of(self, partition: str, changes: Changes) -> tuple[str, ...]:
        """The causes of a partition's changes: fields of the declaration, then rows of the source."""
        placed = self._build.placed[partition]
        if placed.stored is None:
            return ("not made yet",)
        causes = list(self._fields_since(placed.stored.render_key))
        if placed.changes_sides:
            causes.append("evaluation.held_out_partitions")
        others = changes.new or len(changes.removed)
        if not causes or others:
            causes.append("rows of the source")
        return tuple(causes)

    def _fields_since(self, render_key: str) -> list[str]:
        if render_key == self._build.render_key:
            return []
        if render_key not in self._fields:
            self._fields[render_key] = self._compared(render_key)
        return self._fields[render_key]

    def _compared(self, render_key: str) -> list[str]:
        before = read_settings(self._distillation, render_key)
        if before is None:
            return [UNRECORDED]
        now = self._build.settings
        fields = changed_fields(before["settings"], now["settings"], "prompts")
        fields += changed_fields(before["student_prompt"], now["student_prompt"], "student_prompt")
        fields += ["prompts.few_shot"] if before["few_shot"] != now["few_shot"] else []
        return fields or ["how prompts are rendered, by a newer release"]


def output_causes(
    distillation: Distillation, upstream: PartitionedPlan, partition: str, identity: TeacherIdentity
) -> tuple[str, ...]:
    """Why a partition's answers are not those of its prompts and the declared teacher."""
    current = read_current(distillation.files.asset(OUTPUTS, partition))
    if current is None:
        return ("not answered yet",)
    causes = [f"prompts {upstream.prompts[partition]}"] if partition in upstream.prompts else []
    record = Builds(distillation.project.home).find(current.build_key) if current.build_key else None
    answered_by = record.inputs.get("teacher") if record is not None else None
    if answered_by != identity.digest:
        causes += _teacher_fields(distillation, answered_by, identity)
    return tuple(causes) or ("what the declaration asks of answers",)


def _teacher_fields(distillation: Distillation, before: str | None, identity: TeacherIdentity) -> list[str]:
    known = read_teacher(distillation, before) if before is not None else None
    if known is None:
        return ["teacher"]
    now = teacher_fields(identity)
    return changed_fields(known, now, "teacher") or ["teacher"]
