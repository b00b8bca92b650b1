"""Turns one source row into one prompt: its identity, its partition, and the conversations teacher and student read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from distill_dagster.errors import SourceError
from distill_dagster.lineage.hashing import digest
from distill_dagster.project import Distillation
from distill_dagster.prompts.identity import group_text, prompt_id
from distill_dagster.prompts.messages import (
    Conversation,
    Message,
    dump_messages,
    few_shot_turns,
    parse_conversation,
    user_text,
)
from distill_dagster.prompts.partitions import ALL, partition_columns, partition_of
from distill_dagster.prompts.rows import RowError, parse_row, text_of
from distill_dagster.prompts.templates import Template, compile_template, unknown_column
from distill_dagster.spec.curation import StudentPromptSpec
from distill_dagster.spec.prompts import PromptsSpec

STAGE = 1  # raised by hand when the same row and settings would give another prompt


class Rendered(NamedTuple):
    """A prompt before grouping and splitting; `group_text` is what the group id hashes."""

    prompt_id: str
    group_text: str
    partition: str
    messages: str
    student_messages: str
    text: str
    reference: str | None


@dataclass(frozen=True)
class Unrendered:
    """Why a row is no prompt, and its partition where that much was known."""

    reason: str
    partition: str | None


class Renderer:
    """Renders the rows of one `prompts:` block.

    Raises:
        TemplateError: a template does not compile.
        SourceError: the few-shot file cannot be used.
    """

    def __init__(self, spec: PromptsSpec, student: StudentPromptSpec, folder: Path, project_root: Path) -> None:
        self._spec = spec
        self._student = student
        self._prompt = compile_template(spec.prompt, "prompts.prompt") if spec.prompt is not None else None
        self._system = compile_template(spec.system, "prompts.system") if spec.system is not None else None
        self._few_shot = few_shot_turns(spec.few_shot, folder, project_root)
        self.settings = self._settings()
        self.key = digest(self.settings)

    def _settings(self) -> dict[str, Any]:
        """All that a prompt depends on besides its row: rows rendered under the same need no rendering again."""
        settings = self._spec.model_dump(mode="json", exclude={"source", "few_shot", "on_bad_row", "max_row_bytes"})
        return {
            "stage": STAGE,
            "settings": settings,
            "student_prompt": self._student.model_dump(mode="json"),
            "few_shot": dump_messages(self._few_shot),
        }

    def check_columns(self, known: frozenset[str]) -> None:
        """Checks every column the declaration names.

        Raises:
            TemplateError: the source has no such column.
        """
        for template in (self._prompt, self._system):
            if template is not None:
                template.check_columns(known)
        spec = self._spec
        named = {"messages": spec.messages, "reference": spec.reference, "id": spec.id, "group": spec.group}
        columns = [(f"prompts.{key}", column) for key, column in named.items() if column is not None]
        columns += [("prompts.partition", column) for column in partition_columns(spec.partition)]
        for where, column in columns:
            if column not in known:
                raise unknown_column(where, column, known)

    def render(self, row_hash: str, row_json: str) -> Rendered | Unrendered:
        """One row's prompt, or why it is none.

        Args:
            row_hash: hash of the row's columns.
            row_json: the row as canonical JSON.
        """
        row = parse_row(row_json)
        partition = ALL if self._spec.partition is None else None
        try:
            if self._spec.partition is not None and self._spec.partition.shards is None:
                partition = partition_of(self._spec.partition, row, "")
            identity = prompt_id(row_hash, row, self._spec.id)
            partition = partition_of(self._spec.partition, row, identity) if partition is None else partition
            return self._render(row, identity, partition)
        except RowError as error:
            return Unrendered(str(error), partition)

    def conversations(self, text: str) -> tuple[str, str]:
        """What teacher and student read when a user writes `text`.

        Raises:
            RowError: the system prompt needs columns of a row.
        """
        columns = self._prompt.columns if self._prompt is not None else frozenset()
        row = dict.fromkeys(columns, text)
        system = _declared_system(self._system, row)
        asked = self._prompt.render(row) if self._prompt is not None and len(columns) == 1 else text
        return self._dump(system, (Message("user", asked),))

    def _dump(self, system: Conversation, turns: Conversation) -> tuple[str, str]:
        """The teacher's and the student's conversation, as canonical JSON."""
        head = (*(system if self._student.system else ()), *(self._few_shot if self._student.few_shot else ()))
        return dump_messages((*system, *self._few_shot, *turns)), dump_messages((*head, *turns))

    def _render(self, row: dict[str, Any], identity: str, partition: str) -> Rendered:
        system, turns = self._conversation(row)
        read = self._read(row, turns)
        teacher, student = self._dump(system, turns)
        return Rendered(
            prompt_id=identity,
            group_text=group_text(row, self._spec.group, read),
            partition=partition,
            messages=teacher,
            student_messages=student,
            text=user_text(turns),
            reference=_reference(row, self._spec.reference),
        )

    def _conversation(self, row: dict[str, Any]) -> tuple[Conversation, Conversation]:
        """The system message (none or one) and the turns of the row itself."""
        of_row = self._system is not None and self._system.columns
        system = _declared_system(self._system, row) if of_row else self._system_of_all
        if self._prompt is not None:
            text = self._prompt.render(row)
            if not text.strip():
                raise RowError("empty prompt: the template renders to nothing on this row")
            return system, (Message("user", text),)
        column = self._spec.messages
        assert column is not None
        turns = parse_conversation(row.get(column), column)
        if turns[0].role != "system":
            return system, turns
        if self._spec.system is not None:
            raise RowError(
                f"column {column!r} has a system message and prompts.system is declared too; keep one of them"
            )
        return turns[:1], turns[1:]

    @cached_property
    def _system_of_all(self) -> Conversation:
        """The system message where it has no columns of the row in it."""
        return _declared_system(self._system, {})

    def _read(self, row: dict[str, Any], turns: Conversation) -> list[str]:
        """The texts the prompt is made of: the columns its template reads, or else the turns themselves."""
        if self._prompt is not None and self._prompt.columns:
            values = [row.get(column) for column in sorted(self._prompt.columns)]
            return ["" if value is None else text_of(value) for value in values]
        return [turn.content for turn in turns]


def _declared_system(template: Template | None, row: dict[str, Any]) -> Conversation:
    text = template.render(row) if template is not None else ""
    return (Message("system", text),) if text.strip() else ()


def _reference(row: dict[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column is not None else None
    text = "" if value is None else text_of(value)
    return text if text.strip() else None


def conversations_for(distillation: Distillation, text: str) -> tuple[str, str]:
    """What teacher and student read (canonical JSON) when a user writes `text`.

    The text is the value of the one column the template reads, or the whole prompt where it reads none or several.

    Raises:
        SourceError: the text is no prompt here, e.g. because the system prompt needs a column.
    """
    spec = distillation.spec.prompts
    renderer = Renderer(spec, distillation.spec.student_prompt, distillation.folder, distillation.project.root)
    try:
        return renderer.conversations(text)
    except RowError as error:
        raise SourceError(f"{distillation.name}: {error}") from None
