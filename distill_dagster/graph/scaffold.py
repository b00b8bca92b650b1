"""Writes a new distillation's commented `defs.yaml`, for `distill new` and `dg scaffold defs` alike."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from dagster.components.scaffold.scaffold import Scaffolder, ScaffoldRequest

from distill_dagster.errors import ProjectError

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
TEMPLATES = ("defs.yaml", "prompts.jsonl")
DG_FILE = "dg.toml"


class DistillationScaffolder(Scaffolder[Any]):
    """`dg scaffold defs distill_dagster.Distillation NAME`."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        write_scaffold(Path(request.target_path))


def write_scaffold(folder: Path) -> list[Path]:
    """Writes a small distillation that loads as it is.

    Raises:
        ProjectError: the name is not one a distillation can have, or the folder is in use.
    """
    if not NAME.fullmatch(folder.name):
        raise ProjectError(
            f"{folder.name!r}: write a name of lower-case letters, digits and _, beginning with a letter"
        )
    if (folder / "defs.yaml").exists():
        raise ProjectError(f"{folder / 'defs.yaml'} is there already; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in TEMPLATES:
        written.append(_copy(name, folder))
    return written


def write_dg_settings(root: Path) -> list[Path]:
    """Writes the `dg.toml` that `dg` needs, unless the project has its settings already."""
    pyproject = root / "pyproject.toml"
    if (root / DG_FILE).exists() or (pyproject.exists() and "[tool.dg]" in pyproject.read_text(encoding="utf-8")):
        return []
    return [_copy(DG_FILE, root)]


def _copy(name: str, folder: Path) -> Path:
    text = files("distill_dagster.graph").joinpath("scaffold_files", name).read_text(encoding="utf-8")
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
