"""What a declaration of students and logits may say, and what it is told where it may not."""

from pathlib import Path

import pytest

from distill_dagster.errors import SpecError
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.loading import load_spec

SPEC = """type: distill_dagster.Distillation
attributes:
  prompts: {{source: {{jsonl: rows.jsonl}}, prompt: "{{{{ question }}}}"{prompts}}}
  teacher: {teacher}
  logits: {logits}
  students:
    one: {{base: some/model, {student}}}
"""
LOCAL = "{provider: transformers, model: some/model}"
CLAUDE = "{provider: anthropic, model: claude-haiku-4-5}"
SERVER = "{provider: openai, model: m, base_url: 'http://localhost:8000/v1'}"


def load(
    tmp_path: Path, student: str, *, teacher: str = LOCAL, logits: str = "{}", prompts: str = ""
) -> DistillationSpec:
    path = tmp_path / "defs.yaml"
    path.write_text(SPEC.format(student=student, teacher=teacher, logits=logits, prompts=prompts), encoding="utf-8")
    return load_spec(path)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("objective: sft, temperature: 2.0", "temperature: only for objective logit or on_policy (objective is sft)"),
        ("objective: logit, targets: reference", "targets: only for objective sft (objective is logit)"),
        ("objective: on_policy, ce_weight: 0.5", "ce_weight: only for objective logit (objective is on_policy)"),
        ("objective: logit, beta: 0.2", "beta: only for divergence jsd (divergence is forward_kl)"),
        ("batch_size: 4, batch_tokens: 4096", "batch_size and batch_tokens: write one of them"),
        ("seeds: [1, 2, 1]", "seeds: one is there twice"),
        ("targets: reference", "students.one.targets: no references; name their column in prompts.reference"),
        ("objective: logit, temperature: 2.0", "2 is not captured (logits.temperatures: 1); add it there"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, student: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, student)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "student", "logits", "message"),
    [
        (CLAUDE, "objective: logit", "{}", "Anthropic's API gives no log-probabilities; write `sft`"),
        (CLAUDE, "objective: on_policy", "{}", "on_policy needs a local teacher"),
        (SERVER, "objective: logit", "{}", "need logits.tokenizer"),
        (SERVER, "objective: logit", "{method: sample, tokenizer: t}", "`method: topk`"),
        (LOCAL, "objective: logit, divergence: jsd", "{method: sample}", "unbiased gradients of the forward KL only"),
        (LOCAL, "objective: logit", "{method: sample, temperatures: [1.0, 2.0]}", "drawn at one temperature"),
    ],
)
def test_teachers_that_cannot_teach_so(tmp_path: Path, teacher: str, student: str, logits: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, student, teacher=teacher, logits=logits)

    assert message in str(caught.value)


def test_what_is_right_loads(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        "objective: logit, divergence: jsd, beta: 0.2, temperature: 2.0, seeds: [1, 2], patience: null",
        logits="{k: 16, temperatures: [1.0, 2.0]}",
    )

    assert spec.logits.k == 16
    assert spec.students["one"].patience is None
    assert load(tmp_path, "targets: reference", prompts=", reference: answer").students["one"].targets == "reference"
