"""`distill compare` as a user calls it: tables for people, JSON for programs, texts on the page only."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.evaluation.across.stored import StoredEvaluation
from distill_dagster.project import Distillation
from tests.evaluation.across.shelf import AT, answering, publish, retrained, small_inputs

Declare = Callable[..., Distillation]
SPEC = """
prompts: {source: {jsonl: "*.jsonl"}, prompt: "{{ question }}"}
teacher: {provider: transformers, model: smollm2-135m-instruct, max_tokens: 96}
students: {sft: {base: {prune: teacher, layers: 16}}}
"""
SIDE = {
    *("name", "student", "version", "current", "written_at", "dataset_version", "student_version", "base_version"),
    *("teacher_version", "spec_hash", "code_version", "test_rows", "report"),
}
ESTIMATE = {"value", "low", "high", "n", "n_clusters", "method", "confidence"}
SECRET = "Said by the newer student."


@pytest.fixture
def distillation(declare: Declare) -> Distillation:
    return declare(SPEC, name="faq")


@pytest.fixture
def versions(distillation: Distillation) -> tuple[StoredEvaluation, StoredEvaluation]:
    """A student's evaluation, and that of its next version, which answers 30 rows otherwise."""
    a = small_inputs()
    newer = retrained(answering(a, pl.when(AT < 30).then(pl.lit(SECRET)).otherwise("prediction")), "be" * 16)
    return publish(distillation, a, hour=0, current=False), publish(distillation, newer, hour=5)


def call(distillation: Distillation, *arguments: str, columns: int = 140) -> Result:
    command = ["--project", str(distillation.project.root), "compare", distillation.name, *arguments]
    return CliRunner().invoke(main, command, env={"COLUMNS": str(columns)})


def lines(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_a_table_of_two_versions(
    distillation: Distillation, versions: tuple[StoredEvaluation, StoredEvaluation]
) -> None:
    a, b = versions

    result = call(distillation, a.name, "sft")

    assert result.exit_code == 0, result.stderr
    shown = lines(result)
    assert shown[0].startswith(
        f"A {a.name}: student 57575757, dataset dadadada, 71 test rows, written 2026-11-24 19:00"
    )
    assert shown[1].startswith(f"B {b.name}, current: student bebebebe")
    (rouge,) = [line for line in shown if line.startswith("ROUGE-L vs reference")]
    assert rouge.endswith("71/65 worse")
    (unchanged,) = [line for line in shown if line.startswith("Forward KL")]
    assert unchanged.endswith("0.000 (all rows equal) 71/65 equal")
    assert "71 rows have the same prompt in both; 30 of their answers changed." in shown
    assert f"versions.student {'57' * 19}5… {'be' * 16}" in shown
    assert SECRET not in result.output


def test_a_narrow_terminal_cuts_no_number(
    distillation: Distillation, versions: tuple[StoredEvaluation, StoredEvaluation]
) -> None:
    wide, narrow = (call(distillation, versions[0].name, "sft", columns=width).stdout for width in (140, 80))

    numbers = [line.split()[3:-1] for line in wide.splitlines() if line.startswith("ROUGE-L vs")]
    assert all(number in narrow for line in numbers for number in line)
    assert len(numbers) == 2


def test_json_is_a_contract(
    distillation: Distillation, versions: tuple[StoredEvaluation, StoredEvaluation], tmp_path: Path
) -> None:
    a, b = versions
    page = tmp_path / "made" / "page.html"

    result = call(distillation, a.name, b.name, "--json", "--out", str(page))

    content = json.loads(result.stdout)
    assert content["format"] == 1
    assert list(content) == [
        *("format", "distillation", "a", "b", "findings", "changes", "rows", "held_out_rows", "measures"),
        *("not_compared", "examples", "confidence", "seed", "page"),
    ]
    assert set(content["a"]) == set(content["b"]) == SIDE
    assert (content["a"]["version"], content["b"]["version"]) == (a.version, b.version)
    assert content["a"]["written_at"] == "2026-11-24T19:00:00Z"
    assert content["changes"] == [{"what": "versions.student", "a": "57" * 32, "b": "be" * 16}]
    assert content["rows"] == {
        **dict.fromkeys(["only_a", "only_b", "other_text", "other_reference", "other_teacher_answer"], 0),
        **{"both": 71, "groups": 65, "changed_answers": 30},
    }
    for measure in content["measures"]:
        assert set(measure) == {
            *("table", "name", "label", "description", "unit", "higher_is_better", "against", "verdict"),
            *("a", "b", "difference"),
        }
        assert set(measure["a"]) == set(measure["b"]) == set(measure["difference"]) == ESTIMATE
    assert set(content["examples"]) == {"measure", "table", "regressions", "gains", "others"}
    assert set(content["examples"]["regressions"][0]) == {"prompt_id", "sample", "a", "b"}
    assert content["page"] == str(page)
    assert SECRET not in result.output
    assert SECRET in page.read_text(encoding="utf-8")


def test_without_names_all_are_listed(
    distillation: Distillation, versions: tuple[StoredEvaluation, StoredEvaluation]
) -> None:
    shown = lines(call(distillation))
    content = json.loads(call(distillation, "--json").stdout)

    assert [line for line in shown if line.startswith("2026-11-")] == [
        f"2026-11-24 {versions[0].name} 57575757 dadadada {_told(content, 0)} 71",
        f"2026-11-25 {versions[1].name} bebebebe dadadada {_told(content, 1)} 71",
    ]
    assert "00:00 UTC current ROUGE-L vs reference" in shown
    assert "distill compare faq A B" in shown[-1]
    assert (content["format"], content["distillation"]) == (1, "faq")
    assert [one["version"] for one in content["evaluations"]] == [one.version for one in versions]
    for one in content["evaluations"]:
        assert set(one) == SIDE | {"metric", "label", "against", "estimate"}
        assert set(one["estimate"]) == ESTIMATE


def _told(content: dict[str, Any], index: int) -> str:
    estimate = content["evaluations"][index]["estimate"]
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sft"], 2, "name both A and B, or neither"),
        (["--out", "page.html"], 2, "--out is for a comparison; name A and B"),
        (["other", "sft"], 1, "error: faq: no stored evaluation of 'other' (stored: none)"),
        ([], 1, "error: faq: no evaluation yet; `distill run faq` makes one"),
    ],
)
def test_what_cannot_be_compared_is_said(
    distillation: Distillation, arguments: list[str], code: int, message: str
) -> None:
    result = call(distillation, *arguments)

    assert result.exit_code == code
    assert message in result.stderr


def test_neither_torch_nor_dagster_is_loaded(
    distillation: Distillation, versions: tuple[StoredEvaluation, StoredEvaluation]
) -> None:
    arguments = ["--project", str(distillation.project.root), "compare", "faq", versions[0].name, "sft", "--json"]
    script = f"""
import sys
from distill_dagster.cli import main
main({arguments!r}, standalone_mode=False)
print([name for name in ("torch", "transformers", "dagster") if name in sys.modules], file=sys.stderr)
"""
    root = Path(__file__).parents[2]

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)

    assert json.loads(done.stdout)["format"] == 1
    assert done.stderr.strip() == "[]"
