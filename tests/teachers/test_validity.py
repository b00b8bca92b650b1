"""What an answer has to be: labels told apart, schemas that are checked before anybody is asked, JSON as it stands."""

import json
import socket
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.errors import SpecError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.teachers.answers.validity import check_answers, json_matcher, label_shares, load_schema

LABELS = ["Positive", "Negative", "ほぼ中立"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def answers(*completions: str | None, status: str = "answered") -> pl.DataFrame:
    return pl.DataFrame(
        {"status": [status] * len(completions), "completion": completions},
        schema={"status": pl.String, "completion": pl.String},
    )


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("Positive", "Positive"),
        ("  negative \n", "Negative"),
        ("POSITIVE.", "Positive"),
        ('"Positive."', "Positive"),
        ("“positive”.", "Positive"),
        ("**Negative**", "Negative"),
        ("** 'Negative'. **", "Negative"),
        ("Ｐｏｓｉｔｉｖｅ", "Positive"),
        ("「ほぼ中立」。", "ほぼ中立"),
        ("positive..", None),
        ("Positive!", None),
        ("Label: positive", None),
        ('"positive', None),
        ("positiv", None),
        ("Positive Negative", None),
    ],
)
def test_a_label_is_recognised_by_its_text_alone(said: str, label: str | None) -> None:
    row = check_answers(answers(said), LABELS, None).row(0, named=True)

    assert row["label"] == label
    assert row["problem"] == (None if label else "invalid_label")


@pytest.mark.parametrize("labels", [["C", "C."], ["yes", "“Yes”"], ["①", "1"]])
def test_labels_that_answers_could_not_tell_apart_are_refused(labels: list[str]) -> None:
    with pytest.raises(SpecError, match=r"teacher\.labels: .* reword one"):
        check_answers(answers(), labels, None)


def test_labels_of_punctuation_are_labels() -> None:
    assert check_answers(answers("*", ".", "**"), ["*", "."], None)["label"].to_list() == ["*", ".", None]


@pytest.mark.parametrize("status", ["refused", "tool_use", "error"])
def test_what_is_no_answer_has_no_problem_of_its_own(status: str) -> None:
    rows = pl.concat([answers("whatever", status=status), answers(None, " \n")])

    for labels, schema in ((LABELS, None), (None, SCHEMA)):
        assert check_answers(rows, labels, schema)["problem"].to_list() == [None] * 3


def test_a_truncated_answer_is_judged() -> None:
    assert check_answers(answers("Posi", status="truncated"), LABELS, None)["problem"].item() == "invalid_label"


def test_nothing_declared_finds_nothing() -> None:
    rows = answers("anything")

    assert check_answers(rows, None, None).equals(
        rows.with_columns(problem=pl.lit(None, pl.String), label=pl.lit(None, pl.String))
    )


@pytest.mark.parametrize(
    ("said", "valid"),
    [
        ('{"city": "Bonn", "people": 330000}', True),
        (' {"city": "ボン"}\n', True),
        ('{"people": 3}', False),
        ('{"city": "Bonn", "mayor": "?"}', False),
        ('```json\n{"city": "Bonn"}\n```', False),
        ('Here it is: {"city": "Bonn"}', False),
        ('{"city": "Bonn"', False),
        ('{"city": "Bonn", "people": NaN}', False),
        ("[" * 100_000, False),
        ('{"city": "Bonn", "people": ' + "1" * 10_000 + "}", False),
        ('{"city": "Bonn", "people": 1e999}', False),
    ],
)
def test_json_counts_as_it_stands(said: str, valid: bool) -> None:
    assert check_answers(answers(said), None, SCHEMA)["problem"].item() == (None if valid else "invalid_json")


def test_no_rows_are_no_problem() -> None:
    for labels, schema in ((LABELS, None), (None, SCHEMA), (None, None)):
        assert check_answers(answers(), labels, schema).schema == {
            "status": pl.String,
            "completion": pl.String,
            "problem": pl.String,
            "label": pl.String,
        }


def test_a_schema_is_inline_or_in_a_file_beside_the_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "assets" / "cities"
    folder.mkdir(parents=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")

    assert load_schema(SCHEMA, folder, tmp_path) == SCHEMA
    assert load_schema("schema.json", folder, tmp_path) == SCHEMA


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"type": "inteer"}}}, r"not a valid JSON Schema at \$\.properties\.a\.type: 'inteer'"),
        ({"pattern": "("}, r"not a valid JSON Schema at \$\.pattern: '\(' is not a 'regex'"),
        ({"properties": {True: {}}}, r"not JSON \(keys must be text, not bool: True\)"),
        ({"const": float("nan")}, r"not JSON"),
        ({"$ref": "https://example.com/schema"}, r"\$ref 'https://example.com/schema' is not in the schema"),
        (
            {"properties": {"a": {"$ref": "#/$defs/b"}}},
            r"\$ref '#/\$defs/b' is not in the schema, .* put it under \$defs",
        ),
        ({"$defs": {"a": {"$ref": "other.json"}}}, r"\$ref 'other\.json'"),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"items": {"$ref": "#b"}}}}, r"\$ref '#b'"),
    ],
)
def test_a_schema_that_cannot_be_right_is_refused(tmp_path: Path, schema: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=rf"teacher\.json_schema: {message}"):
        load_schema(schema, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file 'schema.json'"),
        ('{"type":\n}', "schema.json:2: not valid JSON"),
        ('["type"]', "schema.json: write an object"),
        ('{"const": Infinity}', "schema.json: not valid JSON"),
        ('{"type": 7}', r"schema.json: not a valid JSON Schema at \$\.type"),
    ],
)
def test_a_schema_file_that_cannot_be_right_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "schema.json").write_text(content, encoding="utf-8")

    with pytest.raises(SpecError, match=rf"teacher\.json_schema: {message}"):
        load_schema("schema.json", tmp_path, tmp_path)


def test_a_schema_file_outside_the_project_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "schema.json").write_text("{}")
    (project / "link.json").symlink_to(tmp_path / "schema.json")

    for name in ("../schema.json", "link.json"):
        with pytest.raises(SpecError, match="leaves the project"):
            load_schema(name, project, project)


def test_references_inside_the_schema_work(tmp_path: Path) -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#tree"}}}
    schema = {"$ref": "#/$defs/tree", "$defs": {"tree": {"$anchor": "tree", **tree, "additionalProperties": False}}}

    matches = json_matcher(load_schema(schema, tmp_path, tmp_path))

    assert matches('{"left": {"right": {}}}')
    assert not matches('{"left": {"right": {"up": 1}}}')


def test_a_property_named_ref_is_no_reference(tmp_path: Path) -> None:
    schema = {"properties": {"$ref": {"type": "string"}}, "examples": [{"$ref": "https://example.com"}]}

    assert load_schema(schema, tmp_path, tmp_path) == schema


def test_no_reference_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket, "create_connection", connect)
    matches = json_matcher({"$ref": "http://localhost:9/schema.json"})

    with pytest.raises(Exception, match="Unresolvable: http://localhost:9"):
        matches("{}")


def test_label_shares_are_the_same_on_every_row_of_a_prompt() -> None:
    rows = pl.DataFrame(
        {"prompt_id": ["b", "a", "a", "c", "a", "a"], "label": ["no", "yes", "no", None, None, "yes"]},
    )

    shares = label_shares(rows)

    split = '{"no":0.333333,"yes":0.666667}'
    assert shares.to_list() == ['{"no":1.0}', split, split, None, split, split]


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | texts), max_size=30))
def test_label_shares_are_canonical_and_sum_to_one(drawn: list[tuple[str, str | None]]) -> None:
    rows = pl.DataFrame(drawn, schema={"prompt_id": pl.String, "label": pl.String}, orient="row")

    shares = label_shares(rows)

    assert (shares.name, shares.dtype, len(shares)) == ("label_shares", pl.String, len(drawn))
    for prompt_id, text in zip(rows["prompt_id"], shares, strict=True):
        labels = [label for other, label in drawn if other == prompt_id and label is not None]
        if not labels:
            assert text is None
            continue
        told = json.loads(text)
        assert text == canonical_json(told)
        assert told == {label: round(labels.count(label) / len(labels), 6) for label in labels}
        assert sum(told.values()) == pytest.approx(1, abs=1e-5)
