"""`distill gc` and the captures in `distill estimate`, as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.logits.build import read_logits_index
from distill_dagster.project import Distillation
from tests.logits.test_build import Project

Declare = Callable[..., Distillation]


def call(project: Project, command: str, *arguments: str) -> Result:
    distillation = project.distillation
    line = ["--project", str(distillation.project.root), command, distillation.name, *arguments]
    return CliRunner().invoke(main, line, env={"COLUMNS": "140"})


@pytest.fixture
def project(declare: Declare, tiny_model: Path) -> Project:
    return Project(declare, tiny_model)


def test_the_estimate_counts_what_is_to_be_captured(project: Project) -> None:
    before = json.loads(call(project, "estimate", "--json").stdout)["capture"]
    built = project.run()
    after = json.loads(call(project, "estimate", "--json").stdout)["capture"]

    assert before["captured"] == 0
    assert (after["captured"], after["missing"], after["bytes"]) == (built.sequences, 0, 0)
    assert f"{built.sequences} completions" in call(project, "estimate").stdout


def test_nothing_is_removed_that_an_index_refers_to(project: Project) -> None:
    built = project.run()
    project.questions[1] = "Something else, then?"
    project.run()
    files = project.files()

    found = json.loads(call(project, "gc", "--json").stdout)

    assert found["format"] == 1
    assert found["bytes_after"] <= found["bytes_before"]
    for name in built.partitions:
        read_logits_index(project.distillation, name)
    assert len(project.files()) <= len(files)
    again = project.run()
    assert again.sequences == 0


def test_shards_of_another_k_go_when_their_indexes_are_gone(project: Project) -> None:
    project.run()
    [old] = project.shards()
    old_indexes = {path for path in project.files() if path.parent.parent.name == "teacher_logits"}
    project.k = 3
    project.run()
    for path in old_indexes:
        path.unlink()

    said = call(project, "gc")

    assert said.exit_code == 0, said.output
    assert "1 files removed" in said.output
    assert not old.exists()
    assert all(path.exists() for path in project.shards())
