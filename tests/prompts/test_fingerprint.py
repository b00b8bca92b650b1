"""What counts as a change of the source, and that an unchanged file is not opened."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from distill_dagster.errors import SourceError
from distill_dagster.project import Distillation
from distill_dagster.prompts.fingerprint import take_fingerprint, why_unwatchable
from distill_dagster.spec.automation import AutomationSpec

Declare = Callable[..., Distillation]
Write = Callable[..., Path]
ROWS = [{"question": "Why?"}]


def with_automation(distillation: Distillation, **automation: Any) -> Distillation:
    spec = distillation.spec.model_copy(update={"automation": AutomationSpec(**automation)})
    return Distillation(distillation.project, distillation.name, distillation.folder, spec)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened through `Path`."""
    names: list[str] = []
    real = Path.open

    def spy(path: Path, *arguments: Any, **options: Any) -> Any:
        names.append(path.name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", spy)
    return names


def test_only_files_of_another_size_or_time_are_read(declare: Declare, write_rows: Write, opened: list[str]) -> None:
    for number in range(20):
        write_rows(ROWS, f"{number:02}.jsonl")
    distillation = declare()
    opened.clear()
    first = take_fingerprint(distillation)
    assert len(opened) == 20
    opened.clear()

    again = take_fingerprint(distillation, first)
    assert (opened, again) == ([], first)

    write_rows([{"question": "Why not?"}], "07.jsonl")
    opened.clear()
    assert take_fingerprint(distillation, first).digest != first.digest
    assert opened == ["07.jsonl"]


def test_a_touched_file_is_no_change(declare: Declare, write_rows: Write, opened: list[str]) -> None:
    path, distillation = write_rows(ROWS), declare()
    first = take_fingerprint(distillation)
    opened.clear()

    os.utime(path, (1, 1))
    touched = take_fingerprint(distillation, first)

    assert opened == ["rows.jsonl"]
    assert touched.digest == first.digest
    assert touched != first


@pytest.mark.parametrize(("change"), ["new", "gone", "renamed"])
def test_a_file_that_comes_goes_or_is_renamed_is_a_change(declare: Declare, write_rows: Write, change: str) -> None:
    write_rows(ROWS, "a.jsonl")
    other = write_rows([{"question": "How?"}], "b.jsonl")
    distillation = declare()
    first = take_fingerprint(distillation)

    if change == "new":
        write_rows([{"question": "Who?"}], "c.jsonl")
    elif change == "gone":
        other.unlink()
    else:
        other.rename(other.with_name("d.jsonl"))

    assert take_fingerprint(distillation, first).digest != first.digest


def test_what_decides_a_prompt_is_part_of_it_and_the_teacher_is_not(declare: Declare, write_rows: Write) -> None:
    write_rows(ROWS)
    first = take_fingerprint(declare()).digest
    other_teacher = declare().spec.teacher.model_copy(update={"max_tokens": 7})
    asked_otherwise = declare()
    spec = asked_otherwise.spec.model_copy(update={"teacher": other_teacher})

    assert take_fingerprint(declare(prompt="Say: {{ question }}")).digest != first
    assert take_fingerprint(declare(student_prompt={"few_shot": True})).digest != first
    assert take_fingerprint(Distillation(asked_otherwise.project, "faq", asked_otherwise.folder, spec)).digest == first


def test_few_shot_examples_and_watched_files_count(declare: Declare, write_rows: Write, folder: Path) -> None:
    write_rows(ROWS)
    shots = write_rows([{"prompt": "a", "completion": "b"}], "few.shots")
    (folder / "notes.txt").write_text("one")
    distillation = with_automation(declare(few_shot="few.shots"), watch=["*.txt"])
    first = take_fingerprint(distillation)
    assert set(first.files) == {"rows.jsonl", "few.shots", "notes.txt"}

    shots.write_text('{"prompt": "a", "completion": "c"}\n')
    second = take_fingerprint(distillation, first)
    (folder / "notes.txt").write_text("two")

    assert len({first.digest, second.digest, take_fingerprint(distillation, second).digest}) == 3


def test_a_python_source_is_its_module_and_the_modules_beside_it(declare: Declare, folder: Path) -> None:
    (folder / "corpus.py").write_text("import words\ndef rows(): raise AssertionError('called')\n")
    (folder / "words.py").write_text("WORDS = []\n")
    distillation = declare(source={"python": "corpus.rows"})
    first = take_fingerprint(distillation)
    assert set(first.files) == {"corpus.py", "words.py"}

    (folder / "words.py").write_text("WORDS = ['a']\n")

    assert take_fingerprint(distillation, first).digest != first.digest


def test_a_query_is_watched_by_its_watermark(declare: Declare, folder: Path) -> None:
    database = folder / "tickets.parquet"

    def store(query: str) -> None:
        duckdb.sql(query).write_parquet(str(database))

    store("select 1 as id, 'Why?' as question")
    declared = declare(source={"sql": "select question from 'tickets.parquet'"})
    assert "write automation.watermark" in str(why_unwatchable(declared.spec))
    distillation = with_automation(declared, watermark="select max(id), count(*) from 'tickets.parquet'")
    assert why_unwatchable(distillation.spec) is None
    first = take_fingerprint(distillation).digest
    assert take_fingerprint(distillation).digest == first

    store("select unnest([1, 2]) as id, 'Why?' as question")

    assert take_fingerprint(distillation).digest != first


@pytest.mark.parametrize(
    ("watermark", "message"),
    [
        ("select * from range(2)", r"automation\.watermark: gave several rows"),
        ("select * from nowhere", r"automation\.watermark: Catalog Error"),
    ],
)
def test_a_watermark_that_is_none_says_so(declare: Declare, watermark: str, message: str) -> None:
    distillation = with_automation(declare(source={"sql": "select 1 as question"}), watermark=watermark)

    with pytest.raises(SourceError, match=message):
        take_fingerprint(distillation)


def test_a_watched_pattern_that_matches_nothing_says_so(declare: Declare, write_rows: Write) -> None:
    write_rows(ROWS)

    with pytest.raises(SourceError, match=r"automation\.watch: no file matches '\*\.tsv'"):
        take_fingerprint(with_automation(declare(), watch=["*.tsv"]))


def test_a_file_written_a_moment_ago_is_not_settled(declare: Declare, write_rows: Write) -> None:
    os.utime(write_rows(ROWS), (1000, 1000))
    seen = take_fingerprint(declare())

    assert not seen.is_settled(1002)
    assert seen.is_settled(1006)
    assert seen.is_settled(900), "a clock that is ahead does not hold up the sensor"
