"""The ledger of looks: each is counted once, durably, and by the rows that two golden sets share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_dagster.errors import StorageError
from distill_dagster.golden.build import build_golden_set
from distill_dagster.golden.looks import Look, looked_at, take_look
from distill_dagster.project import Distillation

ATTRIBUTES = """
prompts: {source: {jsonl: rows.jsonl}, prompt: "{{ q }}"}
golden_set: {jsonl: golden.jsonl}
teacher: {provider: transformers, model: tiny}
"""
RULE = {"gate": {"metric": "chrf", "max_degradation": 0.1}}
Publish = Callable[..., Distillation]


@pytest.fixture
def publish(declare: Callable[..., Distillation]) -> Publish:
    def with_questions(*questions: str) -> Distillation:
        lines = [json.dumps({"q": text, "reference": "So.", "verified": True}) + "\n" for text in questions]
        return declare(ATTRIBUTES, golden__jsonl="".join(lines))

    return with_questions


def look(distillation: Distillation, student: str = "sft", version: str = "v1", **rule: Any) -> Look:
    golden = build_golden_set(distillation).version
    return take_look(distillation, student, version, golden, RULE | rule)


def files(distillation: Distillation) -> list[Path]:
    return sorted(distillation.files.asset("golden_set").glob("looks/*.json"))


def test_the_same_look_keeps_its_number(publish: Publish) -> None:
    distillation = publish("How?")

    first, again = look(distillation), look(distillation)

    assert first == again
    assert (first.number, first.student, first.student_version, first.rule) == (1, "sft", "v1", RULE)
    assert len(files(distillation)) == 1


def test_another_version_or_rule_of_a_student_is_another_look_and_another_student_is_not(publish: Publish) -> None:
    distillation = publish("How?")

    looks = [
        look(distillation),
        look(distillation, version="v2"),
        look(distillation, max_tokens=9),
        look(distillation, student="logit"),
        look(distillation, version="v2"),
    ]

    assert [one.number for one in looks] == [1, 2, 3, 1, 2]


def test_golden_sets_that_share_a_row_share_their_looks(publish: Publish) -> None:
    numbers = [look(publish(*questions)).number for questions in (["How?"], ["How?", "Why?"], ["When?"], ["Why?"])]

    assert numbers == [1, 2, 1, 2]


def test_a_golden_set_that_is_gone_counts_as_the_same(publish: Publish) -> None:
    distillation = publish("How?")
    look(distillation)
    for file in distillation.files.asset("golden_set").glob("*.parquet"):
        file.unlink()

    assert look(publish("When?")).number == 2


def test_students_who_were_looked_at_are_remembered_by_the_rows(publish: Publish) -> None:
    distillation = publish("How?")
    look(distillation, student="gone")
    look(distillation)

    assert looked_at(distillation, build_golden_set(distillation).version) == {"gone", "sft"}
    other = publish("When?")
    assert looked_at(other, build_golden_set(other).version) == set()


def test_a_torn_entry_is_named_and_not_skipped(publish: Publish) -> None:
    distillation = publish("How?")
    look(distillation)
    [entry] = files(distillation)
    entry.write_text("{", encoding="utf-8")

    with pytest.raises(StorageError, match=entry.name):
        look(distillation, version="v2")
