"""Lineage on a small real project: from a student to its prompts and back, whatever was edited in between."""

from collections.abc import Iterator
from typing import Any

import pytest

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.of_prompts import prompt_lineage, response_lineage
from distill_dagster.catalog.of_students import student_lineage, teacher_impact
from distill_dagster.errors import CatalogError
from distill_dagster.storage import read_current
from tests.catalog.world import EDITED, EVALUATED, LAST, NEW, OLD, History


@pytest.fixture
def catalog(history: History) -> Iterator[Catalog]:
    with Catalog(history.project, ["faq"]) as opened:
        yield opened


def test_a_student_leads_to_its_dataset_partitions_teacher_and_release(history: History, catalog: Catalog) -> None:
    first, _, third = history.datasets
    files = history.faq.distillation.files

    newest, old = student_lineage(catalog, "sft"), student_lineage(catalog, "sft@01")

    assert (newest.version, newest.current, old.version, old.current) == (LAST, True, OLD, False)
    assert newest.dataset is not None
    assert old.dataset is not None
    assert (newest.dataset.version, newest.dataset.current) == (third.version, True)
    assert (old.dataset.version, old.dataset.current) == (first.version, False)
    assert old.dataset.rows == dict(first.split_counts)
    for one in newest.dataset.partitions:
        prompts, outputs = (read_current(files.asset(kind, one.partition)) for kind in ("prompts", "teacher_outputs"))
        assert prompts is not None
        assert outputs is not None
        assert (one.prompts, one.teacher_outputs) == (prompts.version, outputs.version)
    assert [one.partition for one in newest.dataset.partitions] == ["birds", "fish"]
    [teacher] = old.teachers
    assert (teacher.provider, teacher.model) == ("anthropic", "claude-haiku-4-5")
    assert teacher.answers == first.split_counts["train"] + first.split_counts["validation"]
    assert teacher.cost_microusd > 0
    assert [one.version for one in old.evaluations] == [EVALUATED]
    assert [one.version for one in old.releases] == [OLD]
    assert (newest.evaluations, newest.releases) == ([], [])


def test_a_prompt_leads_to_everything_that_has_it(history: History, catalog: Catalog) -> None:
    first, second, third = history.datasets

    [train] = prompt_lineage(catalog, history.prompts_in("train")[0])
    [test] = prompt_lineage(catalog, history.prompts_in("test")[0])

    assert {(one.version, one.current, one.split) for one in train.datasets} == {
        (first.version, False, "train"),
        (second.version, False, "train"),
        (third.version, True, "train"),
    }
    assert {(one.version, one.saw) for one in train.students} == {(OLD, "train"), (NEW, "train"), (LAST, "train")}
    assert train.evaluations == []
    models = {answer.response.model for answer in train.answers if answer.response is not None}
    assert models == {"claude-haiku-4-5", "claude-sonnet-5-5"}
    assert all(answer.response and answer.response.cost_microusd > 0 for answer in train.answers)
    assert [one.version for one in train.releases] == [OLD]
    assert [one.version for one in test.evaluations] == [EVALUATED]
    assert {one.saw for one in test.students} == {"test"}


def test_an_edited_prompt_has_further_answers(catalog: Catalog) -> None:
    [found] = prompt_lineage(catalog, EDITED)
    keys = [answer.request_key for answer in found.answers]
    [by_key] = response_lineage(catalog, keys[0][:12]).prompts

    assert len(set(keys)) == 3  # haiku on both texts, sonnet on the second
    assert len(found.prompts) == 2
    assert by_key == found


def test_a_dropped_prompt_says_why(catalog: Catalog) -> None:
    [dropped] = catalog.rows("SELECT prompt_id, detail FROM dropped")

    [found] = prompt_lineage(catalog, dropped["prompt_id"])

    assert {dropped["prompt_id"], dropped["detail"]} == {"fish-10", "fish-11"}
    assert {(one.reason, one.detail) for one in found.dropped} == {("duplicate", dropped["detail"])}
    assert [one.current for one in found.dropped] == [True, False, False]
    assert (found.datasets, found.students) == ([], [])


def test_a_teacher_leads_to_all_that_learned_from_it_and_no_other(history: History, catalog: Catalog) -> None:
    old = teacher_impact(catalog, "claude-haiku-4-5")
    new = teacher_impact(catalog, "anthropic/claude-sonnet-5-5")

    first, second, third = (
        build.split_counts["train"] + build.split_counts["validation"] for build in history.datasets
    )
    assert (old.answers, new.answers) == (24, 23)
    assert [(one.version, one.answers, one.rows, one.released) for one in old.students] == [
        (OLD, first, first, True),
        (NEW, second, second, False),
    ]
    assert [(one.version, one.answers, one.rows, one.released) for one in new.students] == [(LAST, third, third, False)]


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (student_lineage, "sft@9", r"no student 'sft@9' is stored \(stored: faq: sft@03030303, faq: sft@01010101, "),
        (student_lineage, "sft@0", "more than one student is called 'sft@0'; write more of"),
        (prompt_lineage, "nope", "no prompt 'nope' is stored in faq"),
        (response_lineage, "nope", r"no response 'nope' \(a request key has 64"),
        (response_lineage, "", "more than one response begins with ''"),
        (teacher_impact, "gpt", r"is of a teacher 'gpt' \(known: claude-haiku-4-5, claude-sonnet-5-5\)"),
    ],
)
def test_what_is_not_there_is_said(catalog: Catalog, find: Any, name: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        find(catalog, name)
