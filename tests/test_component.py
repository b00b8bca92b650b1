"""The component in Dagster's eyes: loading, the `dg` commands, and mistakes anchored to their lines."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

LOAD = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError("loading opened a connection")

socket.socket.connect = refuse
socket.create_connection = refuse
import dagster as dg
from distill_dagster.definitions import defs

loaded = defs()
keys = sorted(key.to_user_string() for key in loaded.resolve_all_asset_keys())
heavy = sorted({"torch", "transformers", "trl", "anthropic", "scipy.stats"}.intersection(sys.modules))
print(len(keys), heavy)
print(" ".join(keys))
"""


def project(tmp_path: Path, *sources: Path) -> Path:
    """A project folder with the repository's dg settings and some of its distillations."""
    root = tmp_path / "project"
    (root / "assets").mkdir(parents=True)
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    for source in sources:
        shutil.copytree(source, root / "assets" / source.name)
    return root


def call(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANTHROPIC", "DISTILL", "DAGSTER")) and name != "VIRTUAL_ENV"
    }
    environment |= {"COLUMNS": "200", "DAGSTER_HOME": "", "PATH": f"{BIN}:{os.environ['PATH']}"}
    del environment["DAGSTER_HOME"]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_twenty_distillations_load_without_torch_network_or_key(tmp_path: Path) -> None:
    root = project(tmp_path)
    for number in range(20):
        shutil.copytree(REPOSITORY / "assets" / "support_claude", root / "assets" / f"support_{number}")

    done = call(sys.executable, "-c", LOAD, cwd=root)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "100 []"


def test_a_folder_with_assets_is_all_a_project_needs(tmp_path: Path) -> None:
    root = project(tmp_path, REPOSITORY / "assets" / "faq")
    (root / "pyproject.toml").unlink()

    done = call(sys.executable, "-c", LOAD, cwd=root / "assets" / "faq")

    assert done.returncode == 0, done.stderr


def test_the_graph_of_a_distillation(tmp_path: Path) -> None:
    done = call(sys.executable, "-c", LOAD, cwd=project(tmp_path, REPOSITORY / "assets" / "faq"))

    assert done.stdout.splitlines()[1].split() == [
        "faq/dataset",
        "faq/evaluation/logit",
        "faq/evaluation/sft",
        "faq/golden_set",
        "faq/prompts",
        "faq/release/logit",
        "faq/release/sft",
        "faq/student/logit",
        "faq/student/sft",
        "faq/teacher_logits",
        "faq/teacher_outputs",
    ]


def test_dg_checks_and_lists_this_repository() -> None:
    assert "All TOML configuration files are valid" in call("dg", "check", "toml", cwd=REPOSITORY).stdout
    assert "All component YAML validated" in call("dg", "check", "yaml", cwd=REPOSITORY).stdout
    assert "faq/teacher_outputs" in call("dg", "list", "defs", cwd=REPOSITORY).stdout
    assert "distill_dagster.component.Distillation" in call("dg", "list", "components", cwd=REPOSITORY).stdout


def test_dagster_loads_the_workspace_file() -> None:
    done = call("dagster", "definitions", "validate", "-w", "workspace.yaml", cwd=REPOSITORY)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seen", "written", "line", "message"),
    [
        (
            "    max_tokens: 300",
            "    max_tokenz: 300",
            "teacher:",
            "Additional properties are not allowed ('max_tokenz'",
        ),
        ("    max_tokens: 300", "    max_tokens: lots", "max_tokens: lots", "'lots' is not of type 'integer'"),
        ("objective: sft", "objective: magic", "objective: magic", "'sft'"),
    ],
)
def test_dg_check_yaml_points_at_the_line(tmp_path: Path, seen: str, written: str, line: str, message: str) -> None:
    root = project(tmp_path, REPOSITORY / "assets" / "support_claude")
    path = root / "assets" / "support_claude" / "defs.yaml"
    text = path.read_text(encoding="utf-8").replace(seen, written)
    path.write_text(text, encoding="utf-8")
    number = next(index for index, content in enumerate(text.splitlines(), 1) if line in content)

    done = call("dg", "check", "yaml", cwd=root)

    assert done.returncode != 0
    assert f"defs.yaml:{number}" in done.stdout + done.stderr
    assert message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("seen", "written", "message"),
    [
        (
            "    metrics: [rouge_l, chrf]",
            "    metrics: [rouge_l, chrf]\n    gate: {metric: exact_match, max_degradation: 0.1}",
            "'exact_match' is not measured",
        ),
        ("  students:", "  students:\n    small: {base: a/b}", "attributes.students.small is written twice"),
    ],
)
def test_dg_check_defs_finds_what_a_schema_cannot(tmp_path: Path, seen: str, written: str, message: str) -> None:
    root = project(tmp_path, REPOSITORY / "assets" / "support_claude")
    path = root / "assets" / "support_claude" / "defs.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(seen, written), encoding="utf-8")

    done = call("dg", "check", "defs", cwd=root)

    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_dg_scaffolds_a_distillation_that_loads(tmp_path: Path) -> None:
    root = project(tmp_path)

    made = call("dg", "scaffold", "defs", "distill_dagster.Distillation", "helpdesk", cwd=root)

    assert made.returncode == 0, made.stderr
    assert "helpdesk/student/small" in call(sys.executable, "-c", LOAD, cwd=root).stdout


def test_the_schedule_and_the_failure_hook_of_the_docs_load_when_pasted(tmp_path: Path) -> None:
    root = project(tmp_path, REPOSITORY / "assets" / "faq")
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "automation.md").read_text(), re.DOTALL)
    (root / "assets" / "automation.py").write_text(block, encoding="utf-8")
    listing = "print([d.name for d in [*(loaded.schedules or ()), *(loaded.sensors or ())]])"

    done = call(sys.executable, "-c", LOAD + listing, cwd=root)

    assert done.returncode == 0, done.stderr
    assert "['faq_nightly_schedule', 'tell_of_failures', 'faq_source']" in done.stdout.splitlines()[2]
