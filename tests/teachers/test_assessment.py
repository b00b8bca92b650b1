"""The declared demands on answers, put together."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill_dagster.errors import SpecError, TeacherError
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.answers.assessment import ASSESSED_SCHEMA, Assessor

JUDGE = {"model": "claude-sonnet-5", "prices": {"input": 1, "output": 2}, "base_url": "http://one"}


def assessor(folder: Path, **keys: Any) -> Assessor:
    spec = TeacherSpec.model_validate({"provider": "anthropic", "model": "claude-sonnet-5"} | keys)
    return Assessor(spec, folder, folder)


def rows(*completions: str | None, reference: str | None = None) -> pl.DataFrame:
    """Samples of one prompt, with a column of somebody else's in their midst."""
    count = len(completions)
    return pl.DataFrame(
        {
            "prompt_id": ["a"] * count,
            "sample": range(count),
            "status": ["answered"] * count,
            "cost_microusd": range(count),
            "completion": completions,
            "text": ["Why?"] * count,
            "reference": [reference] * count,
        },
        schema_overrides={"completion": pl.String, "reference": pl.String, "sample": pl.Int32},
    )


def test_nothing_declared_finds_nothing_and_selects_everything(tmp_path: Path) -> None:
    answers = rows("one", None)

    assessed = assessor(tmp_path).assess(answers)

    assert dict(assessed.schema) == dict(answers.schema) | ASSESSED_SCHEMA
    assert assessed.select(answers.columns).equals(answers)
    assert assessed.select(list(ASSESSED_SCHEMA)).rows() == [(None, None, None, None, True)] * 2


def test_labels_and_their_shares(tmp_path: Path) -> None:
    demands = assessor(tmp_path, labels=["yes", "no"], samples=4, select="first_valid")

    assessed = demands.assess(rows("perhaps", "Yes.", "no", "**yes**"))

    shares = '{"no":0.333333,"yes":0.666667}'
    assert assessed.select(list(ASSESSED_SCHEMA)).rows() == [
        ("invalid_label", None, shares, None, False),
        (None, "yes", shares, None, True),
        (None, "no", shares, None, False),
        (None, "yes", shares, None, False),
    ]


def test_invalid_json_is_never_the_best(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "array"}')
    best = {"best": {"metric": "exact_match"}}
    demands = assessor(tmp_path, json_schema="schema.json", samples=2, select=best)

    assessed = demands.assess(rows("[1", "[2]", "[1]", reference="[1]"))

    assert demands.schema == {"type": "array"}
    assert assessed["problem"].to_list() == ["invalid_json", None, None]
    assert assessed["score"].to_list() == [None, 0.0, 1.0]
    assert assessed["selected"].to_list() == [False, False, True]


def test_a_judge_is_asked_about_valid_answers_and_its_scores_decide(tmp_path: Path) -> None:
    demands = assessor(tmp_path, labels=["yes", "no"], samples=3, select={"best": {"judge": JUDGE}})
    answers = rows("perhaps", "yes", "no")

    questions = demands.judge_prompts(answers)
    verdicts = questions.select(
        "prompt_id", "sample", completion=pl.Series(['{"score":2}', '{"score":9}']), status=pl.lit("answered")
    )
    assessed = demands.assess(answers, verdicts)

    assert demands.judge_teacher is not None
    assert demands.judge_teacher.json_schema is not None
    assert questions["sample"].to_list() == [1, 2]
    assert assessed["score"].to_list() == [None, 2.0, 9.0]
    assert assessed["selected"].to_list() == [False, False, True]


def test_verdicts_are_given_exactly_where_a_judge_is_declared(tmp_path: Path) -> None:
    judging = assessor(tmp_path, samples=2, select={"best": {"judge": JUDGE}})

    with pytest.raises(ValueError, match="where a judge is declared"):
        judging.assess(rows("a"))
    with pytest.raises(ValueError, match="where a judge is declared"):
        assessor(tmp_path).assess(rows("a"), rows("a"))
    with pytest.raises(ValueError, match="no judge"):
        assessor(tmp_path).judge_prompts(rows("a"))


def test_a_function_beside_the_yaml_decides(tmp_path: Path) -> None:
    (tmp_path / "scoring.py").write_text("def longest(prompt, completion, reference): return len(completion)")
    demands = assessor(tmp_path, samples=2, select={"best": {"python": "scoring.longest"}})

    assert demands.assess(rows("short", "longer"))["selected"].to_list() == [False, True]


def test_settings_hold_what_is_declared(tmp_path: Path) -> None:
    best = {"best": {"metric": "chrf"}}

    assert assessor(tmp_path).settings() == {}
    assert assessor(tmp_path, samples=2).settings() == {}
    assert assessor(tmp_path, labels=["a", "b"], samples=2, select="first_valid").settings() == {
        "labels": ["a", "b"],
        "select": "first_valid",
    }
    assert assessor(tmp_path, json_schema={"type": "array"}, samples=2, select=best).settings() == {
        "json_schema": {"type": "array"},
        "select": best,
    }


def test_settings_follow_the_users_code(tmp_path: Path) -> None:
    demands = assessor(tmp_path, samples=2, select={"best": {"python": "scoring.longest"}})
    with pytest.raises(TeacherError, match="no file"):
        demands.settings()

    (tmp_path / "scoring.py").write_text("def longest(*texts): return 1")
    first = demands.settings()
    (tmp_path / "scoring.py").write_text("def longest(*texts): return 2")

    assert demands.settings() != first


def test_settings_of_a_judge_leave_out_where_it_is_and_what_it_costs(tmp_path: Path) -> None:
    def settings(**keys: Any) -> dict[str, Any]:
        return assessor(tmp_path, samples=2, select={"best": {"judge": JUDGE | keys}}).settings()

    assert settings(base_url="http://other", prices={"input": 3, "output": 4}) == settings()
    assert settings(rubric="Short.") != settings()
    assert settings(model="claude-opus-5") != settings()


@pytest.mark.parametrize(
    "keys",
    [
        {"json_schema": "nowhere.json"},
        {"labels": ["C", "C."]},
        {"samples": 2, "select": {"best": {"judge": {"model": "claude-sonnet-5", "revision": "r"}}}},
    ],
)
def test_what_cannot_be_right_is_refused_before_anybody_is_asked(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        assessor(tmp_path, **keys)


def test_the_plain_case_costs_nothing(tmp_path: Path) -> None:
    many = pl.concat([rows("one", "two")] * 50_000, rechunk=True)
    demands = assessor(tmp_path)

    started = time.perf_counter()
    demands.assess(many)

    assert time.perf_counter() - started < 1


def test_no_rows_are_assessed_to_no_rows(tmp_path: Path) -> None:
    (tmp_path / "scoring.py").write_text("def one(*texts): return 1")
    for keys in ({}, {"labels": ["a", "b"]}, {"json_schema": {}}):
        for select in ("all", "first_valid", {"best": {"metric": "chrf"}}, {"best": {"python": "scoring.one"}}):
            assessed = assessor(tmp_path, samples=2, select=select, **keys).assess(rows())

            assert assessed.is_empty()
            assert dict(assessed.schema) == dict(rows().schema) | ASSESSED_SCHEMA
