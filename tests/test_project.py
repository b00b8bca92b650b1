"""How a project is found."""

from pathlib import Path

import pytest

from distill_dagster.errors import ProjectError
from distill_dagster.project import find_project


def test_the_nearest_folder_upward_with_assets(tmp_path: Path) -> None:
    deep = tmp_path / "team" / "assets" / "faq"
    deep.mkdir(parents=True)

    assert find_project(start=deep).root == tmp_path / "team"


def test_the_variable_and_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "assets").mkdir(parents=True)
    monkeypatch.setenv("DISTILL_PROJECT", str(tmp_path / "one"))

    assert find_project().root == tmp_path / "one"
    assert find_project(str(tmp_path / "two")).root == tmp_path / "two"


def test_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="name one with --project"):
        find_project(start=tmp_path)
    with pytest.raises(ProjectError, match="no `assets/` folder"):
        find_project(str(tmp_path))


def test_an_unknown_distillation_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    with pytest.raises(ProjectError, match="none yet; `distill new NAME` makes one"):
        find_project(str(tmp_path)).distillation("faq")
