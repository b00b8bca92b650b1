"""A distillation project to write sources into."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec

Declare = Callable[..., Distillation]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the distillation's YAML file, inside a project."""
    path = tmp_path / "project" / "assets" / "faq"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def declare(folder: Path) -> Declare:
    """Declares a distillation: `declare(source={…}, prompt="…", …)`; `student_prompt` is the block of that name."""

    def declare_it(
        student_prompt: dict[str, Any] | None = None, held_out: Sequence[str] = (), **prompts: Any
    ) -> Distillation:
        root = folder.parent.parent
        prompts = {"source": {"jsonl": "*.jsonl"}, **prompts}
        if "messages" not in prompts:
            prompts.setdefault("prompt", "{{ question }}")
        spec = DistillationSpec.model_validate(
            {
                "prompts": prompts,
                "teacher": {"provider": "transformers", "model": "tiny"},
                "student_prompt": student_prompt or {},
                "evaluation": {"held_out_partitions": list(held_out)},
            }
        )
        return Distillation(project=Project(root=root, home=root / ".distill"), name="faq", folder=folder, spec=spec)

    return declare_it


@pytest.fixture
def write_rows(folder: Path) -> Callable[..., Path]:
    """Writes a JSON-lines file: dicts become JSON, texts stay as they are."""

    def write(rows: Iterable[dict[str, Any] | str], name: str = "rows.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path = folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write
