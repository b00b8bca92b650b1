"""Finds the distillation project a command or code location works on: a folder with `assets/` in it."""

import os
from dataclasses import dataclass
from pathlib import Path

from distill_dagster.errors import ProjectError
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.loading import COMPONENT_TYPE, load_spec
from distill_dagster.storage import DistillationFolder


@dataclass(frozen=True)
class Project:
    """A project folder and its `DISTILL_HOME`."""

    root: Path
    home: Path

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the response store."""
        return os.environ.get("DISTILL_STORE_URL") or f"sqlite:///{self.home / 'responses.sqlite'}"

    @property
    def dagster_home(self) -> Path:
        """The Dagster instance that `distill run` and `distill ui` share."""
        return Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster").absolute()

    def names(self) -> list[str]:
        """Names of the declared distillations, sorted."""
        files = sorted((self.root / "assets").glob("*/defs.yaml"))
        return [file.parent.name for file in files if COMPONENT_TYPE in file.read_text(encoding="utf-8")]

    def distillation(self, name: str) -> "Distillation":
        """One declared distillation.

        Raises:
            ProjectError: there is none of that name.
            SpecError: its YAML is wrong.
        """
        path = self.root / "assets" / name / "defs.yaml"
        if not path.is_file():
            known = ", ".join(self.names()) or "none yet; `distill new NAME` makes one"
            raise ProjectError(f"no distillation {name!r} in {self.root / 'assets'} (known: {known})")
        return Distillation(project=self, name=name, folder=path.parent, spec=load_spec(path))


@dataclass(frozen=True)
class Distillation:
    """A declared distillation with its places: what every stage works from."""

    project: Project
    name: str
    folder: Path
    spec: DistillationSpec

    @property
    def files(self) -> DistillationFolder:
        """Its artifacts under `DISTILL_HOME`."""
        return DistillationFolder(self.project.home, self.name)


def find_project(explicit: str | None = None, start: Path | None = None) -> Project:
    """`explicit`, else `DISTILL_PROJECT`, else the nearest folder upward from `start` with `assets/` in it.

    Raises:
        ProjectError: none found.
    """
    named = explicit or os.environ.get("DISTILL_PROJECT")
    if named:
        root = Path(named).expanduser().resolve()
        if not (root / "assets").is_dir():
            raise ProjectError(f"{root} has no `assets/` folder, so it is not a distillation project")
        return _project(root)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "assets").is_dir():
            return _project(folder)
    raise ProjectError(
        f"no distillation project at or above {here}: change into a folder with `assets/`, or name one with --project"
    )


def project_root(explicit: str | None = None) -> Path:
    """The project's folder; where there is none, the folder to make one of: `explicit`, else the working directory."""
    try:
        return find_project(explicit).root
    except ProjectError:
        return Path(explicit or os.environ.get("DISTILL_PROJECT") or Path.cwd()).expanduser().resolve()


def _project(root: Path) -> Project:
    home = os.environ.get("DISTILL_HOME")
    return Project(root=root, home=Path(home).expanduser().resolve() if home else root / ".distill")
