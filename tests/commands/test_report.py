"""`distill report` as a user calls it."""

import dataclasses
import json
import os
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill_dagster.cli import main
from distill_dagster.project import Distillation
from tests.evaluation.across.shelf import publish, small_inputs

Declare = Callable[..., Distillation]
SPEC = """
prompts: {source: {jsonl: "*.jsonl"}, prompt: "{{ question }}"}
teacher: {provider: transformers, model: smollm2-135m-instruct, max_tokens: 96}
students:
  sft: {base: {prune: teacher, layers: 16}}
  soft: {base: {prune: teacher, layers: 16}}
"""


@pytest.fixture
def distillation(declare: Declare) -> Distillation:
    return declare(SPEC, name="faq")


@pytest.fixture
def page(distillation: Distillation) -> Path:
    return publish(distillation, small_inputs()).report_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser was asked to open."""
    urls: list[str] = []

    def open_url(url: str) -> bool:
        urls.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_url)
    return urls


def call(distillation: Distillation, *arguments: str) -> Result:
    command = ["--project", str(distillation.project.root), "report", distillation.name, *arguments]
    return CliRunner().invoke(main, command)


def test_the_path_is_printed_and_nothing_opened(distillation: Distillation, page: Path, opened: list[str]) -> None:
    result = call(distillation)

    assert (result.exit_code, result.stdout, opened) == (0, f"{page.resolve()}\n", [])


def test_the_page_is_opened_and_its_path_printed(distillation: Distillation, page: Path, opened: list[str]) -> None:
    result = call(distillation, "--open", "--student", "sft")

    assert (result.exit_code, result.stdout) == (0, f"{page.resolve()}\n")
    assert opened == [page.resolve().as_uri()]


def test_where_no_browser_starts_the_path_is_left(
    distillation: Distillation, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: False)

    result = call(distillation, "--open")

    assert (result.exit_code, result.stdout) == (0, f"{page.resolve()}\n")
    assert result.stderr == "no browser could be started here; open the file above\n"


def test_json_is_a_contract(distillation: Distillation, page: Path) -> None:
    assert json.loads(call(distillation, "--json").stdout) == {
        "format": 1,
        "student": "sft",
        "version": page.parent.name,
        "report": str(page.resolve()),
    }


def test_the_student_that_was_evaluated_last(distillation: Distillation, page: Path) -> None:
    inputs = small_inputs()
    students = {"soft": inputs.spec.students["sft"]}
    soft = dataclasses.replace(
        inputs,
        student=dataclasses.replace(inputs.student, name="soft"),
        spec=inputs.spec.model_copy(update={"students": students}),
    )
    later = publish(distillation, soft).report_path
    os.utime(page, (0, 0))

    assert call(distillation).stdout.strip() == str(later.resolve())
    assert call(distillation, "--student", "sft").stdout.strip() == str(page.resolve())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "faq: no evaluation yet; `distill run faq` makes one"),
        (["--open"], "faq: no evaluation yet; `distill run faq` makes one"),
        (["--student", "soft"], "faq: no evaluation of 'soft' yet; `distill run faq --student soft` makes one"),
        (["--student", "other"], "faq declares no student 'other' (known: sft, soft)"),
    ],
)
def test_what_is_missing_is_said(
    distillation: Distillation, opened: list[str], arguments: list[str], message: str
) -> None:
    result = call(distillation, *arguments)

    assert (result.exit_code, result.stderr, opened) == (1, f"error: {message}\n", [])


def test_a_page_that_is_gone_is_named(distillation: Distillation, page: Path) -> None:
    page.unlink()

    result = call(distillation)

    assert result.exit_code == 1
    assert f"{page}: the report is gone; remove its folder, and `distill run faq` makes it again" in result.stderr
