"""How metrics are written in the YAML, and what a wrong one says."""

from pathlib import Path

import pytest

from distill_dagster.errors import SpecError
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.loading import load_spec
from distill_dagster.spec.metrics import RESERVED_NAMES
from distill_dagster.variants.compare import ANSWER_COLUMNS

DECLARATION = """type: distill_dagster.Distillation
attributes:
  prompts: {source: {jsonl: rows.jsonl}, prompt: "{{ question }}"}
  teacher: {provider: transformers, model: some/model}
  evaluation:
    metrics: METRICS
"""


def load(tmp_path: Path, metrics: str, gate: str = "") -> EvaluationSpec:
    path = tmp_path / "defs.yaml"
    text = DECLARATION.replace("METRICS", metrics)
    gated = f"    gate: {{metric: {gate}, max_degradation: 0.1}}\n  golden_set: {{jsonl: golden.jsonl}}\n"
    path.write_text(text + gated if gate else text, encoding="utf-8")
    return load_spec(path).evaluation


def test_names_and_blocks_stand_side_by_side(tmp_path: Path) -> None:
    metrics = (
        '[rouge_l, {regex: "^[A-Z]"}, {regex: "[.]$", name: ends_well}, {json_schema: answer.json}, '
        "{python: my.scores.Tone}, {embedding_similarity: owner/model, revision: 1a2b}, macro_f1]"
    )

    spec = load(tmp_path, metrics, gate="ends_well")

    names = ["rouge_l", "regex", "ends_well", "json_schema", "python_my_scores_Tone"]
    names += ["embedding_similarity", "macro_f1"]
    assert spec.metric_names == names
    assert spec.primary_metric == "ends_well"
    assert load(tmp_path, metrics).primary_metric == "rouge_l"
    assert EvaluationSpec.model_validate(spec.model_dump()) == spec
    assert EvaluationSpec.model_validate(spec.model_dump(mode="json", exclude_unset=True)) == spec


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("[rougel]", "6: evaluation.metrics.0: input should be 'exact_match', 'token_f1', 'rouge_l'"),
        ("[3]", "6: evaluation.metrics.0: input should be 'exact_match'"),
        ("[]", "6: evaluation.metrics: list should have at least 1 item"),
        ("[{regexp: a}]", "6: evaluation.metrics.0.regexp: unknown key; remove it or correct its name (did you mean"),
        ('[rouge_l, {regex: "("}]', "6: evaluation.metrics.1: regex: not a pattern (missing ) at position 1); correct"),
        (f"[{{regex: '{'(' * 3000}'}}]", "regex: not a pattern (nested too deeply); correct it"),
        ("[{name: mine}]", "write exactly one of regex, json_schema, python, embedding_similarity (seen: none)"),
        ("[{regex: a, python: a.b}]", "python, embedding_similarity (seen: regex and python)"),
        ("[{python: nowhere}]", "evaluation.metrics.0.python: string should match pattern"),
        ("[{regex: a, needs_reference: false}]", "needs_reference: only for python; regex never looks at a reference"),
        ("[{regex: a, revision: v1}]", "revision: only for embedding_similarity; regex has none, so remove it"),
        ("[{regex: a, name: rouge_l}]", "name: 'rouge_l' is already something else's; write another"),
        ("[{regex: a, name: forward_kl}]", "name: 'forward_kl' is already something else's; write another"),
        ("[{regex: a, name: Mine}]", "evaluation.metrics.0.name: string should match pattern"),
        (
            "[{regex: a}, {regex: b}]",
            "evaluation: metrics: two are called 'regex'; give one a name: {regex: …, name: …}",
        ),
        ("[{python: a.b}, {python: a.b}]", "two are called 'python_a_b'; give one a name: {python: …, name: …}"),
        ("[chrf, chrf]", "5: evaluation: metrics: two are called 'chrf'; keep one"),
        ("[macro_f1]", "metrics: macro_f1 has no score per row, and one is needed; add label_accuracy"),
    ],
)
def test_a_wrong_metric_is_refused_where_it_stands(tmp_path: Path, metrics: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, metrics)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("python:a.b", "'python:a.b' is not measured; write one of chrf, python_a_b, or add it to evaluation.metrics"),
        ("macro_f1", "macro_f1 has no score per row; write one of chrf, python_a_b"),
    ],
)
def test_the_gate_names_a_metric_as_its_column_does(tmp_path: Path, gate: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, "[chrf, macro_f1, {python: a.b}]", gate=f'"{gate}"')

    assert message in str(caught.value)


def test_no_metric_takes_the_name_of_another_column() -> None:
    assert set(ANSWER_COLUMNS) <= RESERVED_NAMES
