"""The `Distillation` component: one declared pipeline in `assets/<name>/defs.yaml`."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from distill_dagster.errors import ProjectError
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.scaffold import DistillationScaffolder
from distill_dagster.project import Distillation as DeclaredDistillation
from distill_dagster.project import find_project
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.loading import check_duplicate_keys


@dg.scaffold_with(DistillationScaffolder)
class Distillation(dg.Component):
    """Distils a teacher into students: prompts → teacher outputs → dataset → students → evaluations → releases.

    The attributes are those of `DistillationSpec`. Its templates are the distillation's own, so Dagster does
    not resolve `{{ … }}` in them.
    """

    def __init__(self, spec: DistillationSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return DistillationSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Distillation":
        if not isinstance(attributes, DistillationSpec):
            attributes = DistillationSpec.model_validate(
                attributes.model_dump(exclude_unset=True) if attributes else {}
            )
        return cls(attributes)

    @classmethod
    def get_code_references_for_yaml(cls, yaml_path: Path, source_position: Any, context: Any) -> list[Any]:
        """None for the file as a whole: each asset refers to its own lines."""
        return []

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        folder = _folder(context)
        check_duplicate_keys(folder / "defs.yaml")
        project = find_project(str(_project_root(folder)))
        return build_definitions(DeclaredDistillation(project=project, name=folder.name, folder=folder, spec=self.spec))


def _folder(context: Any) -> Path:
    path = Path(context.path)
    return path.parent if path.is_file() else path


def _project_root(folder: Path) -> Path:
    """The project around a distillation's folder, which stands directly in `assets/`.

    Raises:
        ProjectError: it stands elsewhere.
    """
    if folder.parent.name != "assets":
        raise ProjectError(f"{folder}: a distillation's folder stands directly in `assets/`; move it there")
    return folder.parent.parent
