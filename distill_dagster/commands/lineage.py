"""`distill lineage`: what a student, a prompt, an answer or a teacher's model is connected with."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.lineage import (
    DatasetFacts,
    EvaluationFacts,
    PromptLineage,
    ReleaseFacts,
    StoredAnswer,
    StudentLineage,
    TeacherImpact,
)
from distill_dagster.catalog.of_prompts import prompt_lineage, response_lineage
from distill_dagster.catalog.of_students import SHORT, student_lineage, teacher_impact
from distill_dagster.evaluation.formatting import count
from distill_dagster.teachers.money.dollars import dollars

FORMAT = 1
_SEEN = {"train": "learned from it", "validation": "validated on it", "test": "was measured on it"}


def print_lineage(catalog: Catalog, kind: str, name: str, *, as_json: bool) -> None:
    """Prints a tree or a table, or JSON: {"format": 1, "kind", …}.

    Beside that the JSON has, by kind, the fields of `catalog.lineage`: "student" those of `StudentLineage`; "prompt"
    "found", a list of `PromptLineage`; "response" those of `ResponseLineage`; "teacher_model" those of
    `TeacherImpact`. No prompt and no answer is in it.

    Args:
        kind: student, prompt, response or teacher_model.

    Raises:
        CatalogError: there is nothing of that name.
    """
    console = Console(highlight=False)
    content: dict[str, Any]
    shown: list[Tree | Table | Text]
    if kind == "student":
        student = student_lineage(catalog, name)
        content, shown = asdict(student), [_student_tree(student)]
    elif kind == "prompt":
        found = prompt_lineage(catalog, name)
        content, shown = {"found": [asdict(one) for one in found]}, [_prompt_tree(one) for one in found]
    elif kind == "response":
        response = response_lineage(catalog, name)
        told = Text(f"response {response.request_key}: {_answer(response.response)}")
        content, shown = asdict(response), [told, *map(_prompt_tree, response.prompts)]
    else:
        impact = teacher_impact(catalog, name)
        content, shown = asdict(impact), _impact(impact)
    if as_json:
        console.out(json.dumps({"format": FORMAT, "kind": kind, **content}, indent=2, ensure_ascii=False))
        return
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, Text))


def _student_tree(one: StudentLineage) -> Tree:
    learned = f"{one.objective or 'objective unknown'}{' on references' if one.targets == 'reference' else ''}"
    root = Tree(Text(f"{one.distillation}: student {_named(one.student, one.version, one.current)}, {learned}"))
    if one.stale:
        root.add(Text("stale: it saw a prompt that was forgotten since", style="yellow"))
    root.add(Text(f"base {(one.base_version or 'unknown')[:SHORT]}"))
    if one.dataset is not None:
        _add_dataset(root, one.dataset)
    teachers = root.add(Text(f"teacher {one.teacher or 'unknown'}; {_authorized(one.authorization)}"))
    for teacher in one.teachers:
        teachers.add(
            Text(
                f"{count(teacher.answers)} answers of {teacher.provider} {teacher.model}, "
                f"{dollars(teacher.cost_microusd)}, {_days(teacher.first_at, teacher.last_at)}"
            )
        )
    _add_evaluations(root, one.evaluations, one.releases)
    return root


def _add_dataset(root: Tree, dataset: DatasetFacts) -> None:
    rows = ", ".join(f"{count(dataset.rows[split])} {split}" for split in sorted(dataset.rows))
    state = f"{', current' if dataset.current else ''}: {rows}" if dataset.stored else ", no longer stored"
    branch = root.add(Text(f"dataset {dataset.version[:SHORT]}{state}"))
    if dataset.golden_set:
        branch.add(Text(f"golden set {dataset.golden_set[:SHORT]}"))
    for one in dataset.partitions:
        outputs = (one.teacher_outputs or "none")[:SHORT]
        branch.add(Text(f"{one.partition}: teacher_outputs {outputs}, prompts {one.prompts[:SHORT]}"))


def _prompt_tree(one: PromptLineage) -> Tree:
    root = Tree(Text(f"{one.distillation}: prompt {one.prompt_id}"))
    for prompts in one.prompts:
        named = _named("prompts", prompts.version, prompts.current)
        root.add(Text(f"{named}: partition {prompts.partition}, split {prompts.split}"))
    for golden in one.golden_sets:
        root.add(Text(f"golden_set@{golden[:SHORT]}"))
    for answer in one.answers:
        branch = root.add(Text(f"sample {answer.sample}: response {answer.request_key[:SHORT]}, {answer.status}"))
        branch.add(Text(_answer(answer.response)))
    for rows in one.datasets:
        root.add(Text(f"{_named('dataset', rows.version, rows.current)}: {rows.split}, {count(rows.rows)} rows"))
    for dropped in one.dropped:
        detail = f" ({dropped.detail})" if dropped.detail else ""
        sample = "" if dropped.sample is None else f", sample {dropped.sample}"
        when = "" if dropped.current else " by an earlier build"
        root.add(Text(f"dropped{when}{sample}: {dropped.reason}{detail}"))
    for student in one.students:
        named = _named(student.student, student.version, student.current)
        root.add(Text(f"student {named} {_SEEN.get(student.saw, f'has it as {student.saw}')}"))
    _add_evaluations(root, one.evaluations, one.releases)
    return root


def _add_evaluations(root: Tree, evaluations: Sequence[EvaluationFacts], releases: Sequence[ReleaseFacts]) -> None:
    for one in evaluations:
        root.add(Text(f"evaluation {_named(one.student, one.version, one.current)}: {one.report}"))
    for release in releases:
        root.add(Text(f"released: {release.student}@{release.version[:SHORT]}", style="green"))


def _impact(impact: TeacherImpact) -> list[Tree | Table | Text]:
    learners = len(impact.students)
    answers = f"{count(impact.answers)} stored answers, " if impact.answers else ""
    told = f"{impact.model}: {answers}{count(learners)} students learned from it"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("distillation", "student", "objective", "dataset", "answers learned", ""):
        table.add_column(heading, justify="right" if heading == "answers learned" else "left")
    for one in impact.students:
        table.add_row(
            Text(one.distillation),
            Text(_named(one.student, one.version, one.current)),
            Text(f"{one.objective or '–'}{' on references' if one.targets == 'reference' else ''}"),
            Text((one.dataset_version or "–")[:SHORT]),
            Text(f"{count(one.answers)} of {count(one.rows)}"),
            Text("released" if one.released else "", style="green"),
        )
    return [Text(told), table] if impact.students else [Text(told)]


def _answer(answer: StoredAnswer | None) -> str:
    if answer is None:
        return "no longer in the response store"
    tokens = f"{count(answer.input_tokens)} + {count(answer.output_tokens)} tokens"
    return (
        f"{answer.provider} {answer.model}, {answer.created_at}, {tokens}, {dollars(answer.cost_microusd)}, "
        f"by {answer.transport}"
    )


def _named(name: str, version: str, current: bool) -> str:
    return f"{name}@{version[:SHORT]}{' (current)' if current else ''}"


def _authorized(authorization: str | None) -> str:
    return f"authorization: {authorization}" if authorization else "no authorization declared"


def _days(first: str, last: str) -> str:
    return first[:10] if first[:10] == last[:10] else f"{first[:10]} to {last[:10]}"
