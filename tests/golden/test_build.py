"""The golden set: what a row has to have, what its version follows, and how it is rendered."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.errors import SourceError, SpecError, TemplateError
from distill_dagster.golden.build import build_golden_set, golden_current, read_golden_set
from distill_dagster.project import Distillation, Project
from distill_dagster.spec.distillation import DistillationSpec

Declare = Callable[..., Distillation]
GOOD = [
    {"q": "What is the refund period?", "reference": "30 days.", "verified": True, "language": "en"},
    {"q": "Wie lange kann ich zurückgeben?", "reference": "30 Tage.", "verified": False, "language": "de"},
]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    def declare_it(rows: list[dict[str, Any]] | None = None, **golden: Any) -> Distillation:
        folder = tmp_path / "assets" / "faq"
        folder.mkdir(parents=True, exist_ok=True)
        if rows is not None:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "golden.jsonl").write_text(text, encoding="utf-8")
        spec = DistillationSpec.model_validate(
            {
                "prompts": {
                    "source": {"jsonl": "rows.jsonl"},
                    "prompt": "{{ q }}",
                    "system": "Be brief.",
                    "id": "ticket",
                    "partition": {"by": "topic"},
                },
                "golden_set": {"jsonl": "golden.jsonl"} | golden,
                "teacher": {"provider": "transformers", "model": "tiny"},
            }
        )
        return Distillation(Project(tmp_path, tmp_path / ".distill"), "faq", folder, spec)

    return declare_it


def test_rows_are_rendered_as_prompts_are(declare: Declare) -> None:
    distillation = declare(GOOD, slice="language")

    build = build_golden_set(distillation)

    rows = {row["text"]: row for row in build.frame.iter_rows(named=True)}
    row = rows["What is the refund period?"]
    assert json.loads(row["messages"])[0] == {"role": "system", "content": "Be brief."}
    assert (row["reference"], row["slice"], row["verified"]) == ("30 days.", "en", True)
    assert (len(rows), build.unverified, build.changed) == (2, 1, True)
    assert read_golden_set(distillation, build.version).equals(build.frame)


def test_the_version_follows_the_rows_and_nothing_else(declare: Declare) -> None:
    first = build_golden_set(declare(GOOD))
    again = build_golden_set(declare([GOOD[1], GOOD[0]]))
    edited = declare([GOOD[0] | {"reference": "14 days."}, GOOD[1]])

    assert (again.version, again.changed) == (first.version, False)
    assert not golden_current(edited)
    assert build_golden_set(edited).version != first.version
    assert golden_current(edited)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": " "}, r"golden.jsonl:1: no reference in column 'reference'; write the right answer"),
        ({"verified": "perhaps"}, r"golden.jsonl:1: column 'verified' must be true or false \(seen: 'perhaps'\)"),
        ({"verified": None}, r"golden.jsonl:1: column 'verified' must be true or false \(seen: None\)"),
        ({"language": None}, r"golden.jsonl:1: no slice in column 'language'; give every row one"),
        ({"language": "all rows"}, r"golden.jsonl:1: the slice in column 'language' is 'all rows', as all slices"),
        ({"q": " "}, r"golden.jsonl:1: empty prompt"),
    ],
)
def test_a_row_that_lacks_something_is_named(declare: Declare, change: dict[str, Any], message: str) -> None:
    distillation = declare([GOOD[0] | change, GOOD[1]], slice="language")

    with pytest.raises(SourceError, match=f"golden_set: {message}"):
        build_golden_set(distillation)
    assert not golden_current_or_broken(distillation)


def golden_current_or_broken(distillation: Distillation) -> bool:
    try:
        return golden_current(distillation)
    except SourceError:
        return False


def test_at_least_one_row_is_verified(declare: Declare) -> None:
    with pytest.raises(SourceError, match="golden_set: no row is verified; set 'verified' to true"):
        build_golden_set(declare([GOOD[1]]))


def test_a_missing_file_and_a_missing_column_are_named(declare: Declare) -> None:
    with pytest.raises(SourceError, match=r"golden_set: no file matches 'golden\.jsonl'"):
        build_golden_set(declare())
    with pytest.raises(TemplateError, match="'q'"):
        build_golden_set(declare([{"question": "?", "reference": "!", "verified": True}]))


def test_csv_flags_are_read_as_text(declare: Declare) -> None:
    distillation = declare(jsonl=None, csv="golden.csv")
    (distillation.folder / "golden.csv").write_text("q,reference,verified\nHow?,So.,TRUE\nWhy?,Because.,false\n")

    assert build_golden_set(distillation).frame.sort("text")["verified"].to_list() == [True, False]


def test_without_a_declaration_there_is_nothing_to_build(declare: Declare) -> None:
    declared = declare(GOOD)
    spec = declared.spec.model_copy(update={"golden_set": None})
    bare = Distillation(declared.project, declared.name, declared.folder, spec)

    assert golden_current(bare)
    with pytest.raises((SourceError, SpecError), match="no golden set is declared"):
        build_golden_set(bare)
