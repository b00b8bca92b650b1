"""`distill forget`: a prompt and its responses, everywhere."""

import json
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.catalog.forget import forget
from distill_dagster.catalog.forgetting import Forgettable, find_forgettable, finish_forgetting
from distill_dagster.commands.run import running_processes
from distill_dagster.errors import CatalogError, StorageError
from distill_dagster.evaluation.formatting import count
from distill_dagster.project import Project
from distill_dagster.storage import DistillationFolder

FORMAT = 1
SHORT = 8


def forget_prompt(project: Project, name: str | None, prompt_id: str, *, yes: bool) -> tuple[Forgettable, bool]:
    """Finds everything that has a prompt, and removes it where `yes` says so.

    Returns:
        What was found, and whether it was removed.

    Raises:
        CatalogError: no such prompt.
        StorageError: a run is under way, or the prompt travels in a provider batch; nothing was removed then.
    """
    only = [name] if name else None
    try:
        found = find_forgettable(project, prompt_id, only)
    except CatalogError:
        if yes and finish_forgetting(project, prompt_id, only):
            return Forgettable(), True
        raise
    if yes:
        for distillation in sorted({one for one, _ in found.prompts}):
            if running := running_processes(DistillationFolder(project.home, distillation)):
                raise StorageError(f"{distillation}: process {running[0]} is running it; forget when it is done")
        forget(project, found)
    return found, yes


def print_forgotten(found: Forgettable, done: bool, *, as_json: bool) -> None:
    """Prints what was removed, or would be, or JSON.

    The JSON is {"format": 1, "done", "prompts": [{distillation, prompt_id}], "responses", "versions": [{distillation,
    kind, name, version, current}], "stale": [{distillation, student, version}]}. No text is in it.
    """
    console = Console(highlight=False)
    if as_json:
        console.out(json.dumps(_content(found, done), indent=2, ensure_ascii=False))
        return
    verb = "removed" if done else "would be removed"
    console.print(Text(f"{count(len(found.prompts))} prompts and {count(len(found.request_keys))} responses {verb}:"))
    for distillation, prompt_id in found.prompts:
        console.print(Text(f"  {distillation}: {prompt_id}"), soft_wrap=True)
    table = Table("distillation", "versions with it", box=None, header_style="bold", pad_edge=False)
    table.add_column("number", justify="right")
    table.add_column("current", justify="right")
    kinds = Counter((one.distillation, one.kind.value) for one in found.versions)
    current = Counter((one.distillation, one.kind.value) for one in found.versions if one.current)
    for (distillation, kind), number in kinds.items():
        table.add_row(Text(distillation), kind, count(number), count(current[distillation, kind]))
    console.print(table)
    for student in found.students:
        named = f"{student.distillation}: student {student.student}@{student.version[:SHORT]}"
        console.print(Text(f"stale: {named} learned from it", style="yellow"), soft_wrap=True)
    console.print(Text(f"\n{_closing(found, done)}"), soft_wrap=True)


def _content(found: Forgettable, done: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "done": done,
        "prompts": [{"distillation": name, "prompt_id": prompt_id} for name, prompt_id in found.prompts],
        "responses": len(found.request_keys),
        "versions": [
            {name: getattr(one, name) for name in ("distillation", "kind", "name", "version", "current")}
            for one in found.versions
        ],
        "stale": [student._asdict() for student in found.students],
    }


def _closing(found: Forgettable, done: bool) -> str:
    names = sorted({name for name, _ in found.prompts})
    if not names:
        return "an earlier call had removed all of it"
    if not done:
        return "nothing was changed; add --yes to do it. What is current is made anew by the next `distill run`"
    return f"a tombstone keeps it from coming back; next: {', '.join(f'distill run {name}' for name in names)}"
