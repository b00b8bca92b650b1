"""`distill lineage`, `diff` and `sql` as a user calls them."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from tests.catalog.world import EDITED, LAST, History


def test_a_student_as_a_tree_and_as_json(history: History) -> None:
    shown = history.faq.call("lineage", "faq", "--student", "sft@0101").stdout.splitlines()
    content = history.faq.json("lineage", "faq", "--student", "sft")

    assert shown[0] == "faq: student sft@01010101, sft"
    assert "├── teacher claude-haiku-4-5; authorization: by contract" in shown
    assert shown[-1] == "└── released: sft@01010101"
    assert list(content) == [
        *("format", "kind", "distillation", "student", "version", "current", "stale", "objective", "targets"),
        *("teacher", "authorization", "base_version", "dataset", "teachers", "evaluations", "releases"),
    ]
    assert (content["format"], content["kind"], content["version"]) == (1, "student", LAST)


def test_two_distillations_with_the_same_student_need_a_name(history: History) -> None:
    result = history.faq.call("lineage", "--student", "sft")

    assert result.stderr == (
        "error: more than one distillation has a student 'sft'; name one: `distill lineage faq --student sft`\n"
    )


def test_a_prompt_is_found_in_all_distillations(history: History) -> None:
    content = history.faq.json("lineage", "--prompt", EDITED)
    text = history.faq.call("lineage", "--prompt", EDITED).output

    assert [one["distillation"] for one in content["found"]] == ["faq", "other"]
    assert "an edited question" not in text + json.dumps(content)


def test_a_response_and_a_teacher(history: History) -> None:
    key = history.faq.json("lineage", "faq", "--prompt", "fish-1")["found"][0]["answers"][0]["request_key"]

    response = history.faq.json("lineage", "--response", key[:16])
    impact = history.faq.call("lineage", "--teacher-model", "claude-haiku-4-5").stdout.splitlines()

    assert (response["request_key"], response["response"]["request_key"]) == (key, key)
    assert impact[0] == "claude-haiku-4-5: 24 stored answers, 3 students learned from it"
    assert impact[1].split() == ["distillation", "student", "objective", "dataset", "answers", "learned"]
    assert [line.split()[:2] for line in impact[2:]] == [
        ["faq", "sft@01010101"],
        ["faq", "sft@02020202"],
        ["other", "sft@01010101"],
    ]


def test_one_question_at_a_time(history: History) -> None:
    for arguments in ([], ["--student", "sft", "--prompt", "x"]):
        result = history.faq.call("lineage", *arguments)
        assert result.exit_code == 2
        assert "name one of --student, --prompt, --response and --teacher-model" in result.stderr


def test_datasets_differ_row_by_row(history: History, tmp_path: Path) -> None:
    first, second, third = (build.version for build in history.datasets)
    rows = tmp_path / "rows.parquet"

    edited = history.faq.json("diff", "faq", first, f"dataset@{second[:9]}")
    retaught = history.faq.json("diff", "faq", second, "dataset", "--out", str(rows))
    shown = history.faq.call("diff", "faq", first, second).stdout

    none = dict.fromkeys(("added", "removed", "moved", "answer_changed", "prompt_changed", "reference_changed"), 0)
    changed = {"answer_changed": 1, "prompt_changed": 1, "reference_changed": 1}
    assert edited["counts"] == none | changed
    assert (edited["unchanged"], edited["partitions"]) == (22, ["birds"])
    assert [row["prompt_id"] for row in edited["examples"]["answer_changed"]] == [EDITED]
    assert edited["a"]["version"] == first
    assert retaught["counts"] == none | {"answer_changed": 23}
    assert (retaught["b"]["version"], retaught["b"]["current"]) == (third, True)
    written = pl.read_parquet(rows)
    assert (written.height, written["answer_changed"].sum()) == (23, 23)
    assert "answer changed        1  birds-3 (0)" in shown


def test_removed_rows_have_reasons(changing: History) -> None:
    faq = changing.faq
    faq.questions["fish-2"] = faq.questions["fish-1"]
    del faq.questions["fish-3"]
    faq.run()

    found = faq.json("diff", "faq", changing.datasets[2].version, "dataset")

    assert found["counts"]["removed"] == 2
    assert found["removed_why"] == {"duplicate": 1, "no longer a prompt": 1}


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("dataset", "sft", "error: faq: dataset is a dataset and sft is none; name two of a kind"),
        ("dataset@zz", "dataset", "error: faq: no dataset is called 'dataset@zz' (stored: dataset@"),
        ("nobody", "sft", "error: faq: no stored evaluation of 'nobody'"),
    ],
)
def test_what_cannot_be_compared_is_said(changing: History, a: str, b: str, message: str) -> None:
    (changing.faq.home / "faq" / "evaluations" / "sft").rename(changing.faq.home / "faq" / "gone")

    result = changing.faq.call("diff", "faq", a, b)

    assert result.exit_code == 1
    assert message in result.stderr


def test_sql_prints_a_table_or_json_and_writes_files(history: History, tmp_path: Path) -> None:
    query = "select distillation, version, token_ids, 1.0 / 0 as x from teacher_outputs order by all -- all of them"

    table = history.faq.call("sql", "select split, count(*) as n from dataset group by split order by n").stdout
    content = history.faq.json("sql", f"{query};")
    for suffix in ("csv", "parquet"):
        result = history.faq.call("sql", query, "--out", str(tmp_path / f"rows.{suffix}"))
        assert result.stdout == f"{tmp_path / f'rows.{suffix}'}: 48 rows\n"

    assert table.splitlines()[0].split() == ["split", "n"]
    assert content["format"] == 1
    assert content["columns"][2:] == [{"name": "token_ids", "type": "INTEGER[]"}, {"name": "x", "type": "DOUBLE"}]
    assert len(content["rows"]) == 48
    assert content["rows"][0]["x"] is None
    assert pl.read_parquet(tmp_path / "rows.parquet").columns == ["distillation", "version", "token_ids", "x"]
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 48


def test_sql_shows_the_first_rows_only(history: History) -> None:
    shown = history.faq.call("sql", "select * from range(1000)").stdout.splitlines()

    assert shown[-1] == "the first 100 rows; --out FILE.parquet or FILE.csv writes all of them"
    assert len(shown) == 103


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drop view prompts"], "error: the catalog answers one SELECT at a time and changes nothing; this is DROP\n"),
        (["select * from nothing"], "error: Catalog Error: Table with name nothing does not exist!"),
        (["select error('no')", "--json"], "error: Invalid Input Error: no\n"),
        (["select 1", "--out", "rows.xlsx"], "error: rows.xlsx: rows are written as .parquet or .csv"),
    ],
)
def test_a_query_that_fails_is_one_message(history: History, arguments: list[str], message: str) -> None:
    result = history.faq.call("sql", *arguments)

    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
