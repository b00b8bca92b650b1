"""What a wrong declaration says: file, line, key, and what to write instead."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.errors import SpecError
from distill_dagster.project import Distillation
from distill_dagster.spec.loading import load_spec

RIGHT = """type: distill_dagster.Distillation
attributes:
  prompts:
    source: {jsonl: rows.jsonl}
    prompt: "{{ question }}"
  teacher:
    provider: transformers
    model: some/model
  students:
    small:
      base: {prune: teacher, layers: 2}
"""


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "defs.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return str(caught.value).replace(f"{path}:", "")


def test_a_right_declaration_loads(tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    path.write_text(RIGHT, encoding="utf-8")

    spec = load_spec(path)

    assert spec.students["small"].base.layers == 2
    assert spec.teacher.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("seen", "written", "message"),
    [
        (
            "    prompt:",
            "    promt:",
            "5: prompts.promt: unknown key; remove it or correct its name (did you mean `prompt`?)",
        ),
        (
            "model: some/model",
            "model: some/model\n    max_tokens: many",
            "9: teacher.max_tokens: input should be a valid",
        ),
        (
            "layers: 2",
            "layers: 0",
            "11: students.small.base.layers: input should be greater than or equal to 1 (seen: 0)",
        ),
        ("jsonl: rows.jsonl", "jsonl: a, csv: b", "4: prompts.source: write exactly one of jsonl, csv, parquet"),
        ("    small:", "    Small:", "10: students.Small: string should match pattern"),
        (
            "  students:",
            "  evaluation:\n    gate: {metric: bleu, max_degradation: 0.1}\n  students:",
            "evaluation.gate.metric: 'bleu' is not measured; write one of rouge_l, chrf, exact_match",
        ),
        (
            "provider: transformers\n    model: some/model",
            "provider: anthropic\n    model: claude-haiku-4-5",
            "students.small.base.prune: a hosted teacher (anthropic) has no layers here",
        ),
        (
            "provider: transformers",
            "provider: transformers\n    budget_usd: 3",
            "teacher.budget_usd: only for a hosted teacher or evaluation.judge (provider is transformers",
        ),
        (
            "provider: transformers\n    model: some/model\n",
            "provider: anthropic\n    model: claude-haiku-4-5\n  curation: {thinking: include}\n",
            "curation.thinking: anthropic returns a summary of the thinking",
        ),
        ("  teacher:", "  teachr:", "6: teachr: unknown key; remove it or correct its name (did you mean `teacher`?)"),
        ("type: distill_dagster.Distillation", "type: other.Thing", "1: write `type: distill_dagster.Distillation`"),
    ],
)
def test_a_mistake_is_anchored_to_its_line(tmp_path: Path, seen: str, written: str, message: str) -> None:
    assert seen in RIGHT
    assert message in complaint(tmp_path, RIGHT.replace(seen, written))


def test_two_students_of_one_name_name_both_lines(tmp_path: Path) -> None:
    twice = f"{RIGHT}    small:\n      base: some/other\n"

    assert complaint(tmp_path, twice) == "12: attributes.students.small is written twice (first on line 10); keep one"


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, RIGHT + "  teacher: [").startswith("12: not valid YAML")


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    path.write_bytes(b"type: \xff")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_spec(path)


def test_a_base_may_be_a_plain_name(declare: Callable[..., Distillation]) -> None:
    spec = declare(
        """
        prompts: {source: {csv: a.csv}, prompt: "{{ q }}"}
        teacher: {provider: anthropic, model: claude-haiku-4-5}
        students: {small: {base: owner/model}}
        """.replace("\n        ", "\n")
    ).spec

    assert spec.students["small"].base.model == "owner/model"
