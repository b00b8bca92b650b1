"""What is stored, and what it is called."""

import json
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.errors import EvaluationError, StorageError
from distill_dagster.evaluation.across.stored import StoredEvaluation, find_evaluation, stored_evaluations
from distill_dagster.project import Distillation
from tests.evaluation.across.shelf import distillation_in, publish, retrained, small_inputs
from tests.evaluation.probed import with_held_out


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Distillation, list[StoredEvaluation]]:
    """Two evaluations of one student's version, and one of the next, in the order of writing."""
    distillation = distillation_in(tmp_path_factory.mktemp("shelf"))
    old = retrained(small_inputs(), "aaaa" * 8)
    return distillation, [
        publish(distillation, small_inputs(), hour=2),
        publish(distillation, old, hour=0, current=False),
        publish(distillation, retrained(small_inputs(confidence=0.9), "aaaa" * 8), hour=1, current=False),
    ]


def test_all_are_found_in_the_order_in_which_they_were_written(
    shelf: tuple[Distillation, list[StoredEvaluation]],
) -> None:
    distillation, (newest, first, second) = shelf

    found = stored_evaluations(distillation)

    assert [one.version for one in found] == [first.version, second.version, newest.version]
    assert [one.current for one in found] == [False, False, True]
    assert [f"{one.written_at:%H:%M %Z}" for one in found] == ["19:00 UTC", "20:00 UTC", "21:00 UTC"]


def test_names_that_find_one(shelf: tuple[Distillation, list[StoredEvaluation]]) -> None:
    distillation, (newest, first, _) = shelf
    student = newest.report.identity.versions.student

    for name in ("sft", "sft@current", newest.name, f"sft@{newest.version}", f"sft@{student[:6]}"):
        assert find_evaluation(distillation, name).version == newest.version, name
    assert find_evaluation(distillation, first.name).version == first.version


def test_names_that_find_none_or_several_say_what_there_is(
    shelf: tuple[Distillation, list[StoredEvaluation]],
) -> None:
    distillation, (newest, first, second) = shelf

    with pytest.raises(EvaluationError, match=r"more than one evaluation of 'sft' begins with 'aaaa'") as several:
        find_evaluation(distillation, "sft@aaaa")
    assert first.name in str(several.value)
    assert second.name in str(several.value)
    assert newest.name not in str(several.value)
    with pytest.raises(EvaluationError, match=r"no evaluation of 'sft' begins with 'zz'; write one of") as unknown:
        find_evaluation(distillation, "sft@zz")
    assert f"{newest.name} (current, student {'57' * 4})" in str(unknown.value)
    with pytest.raises(EvaluationError, match=r"no stored evaluation of 'other' \(stored: sft@.*`distill run faq`"):
        find_evaluation(distillation, "other")


def test_none_is_current_where_the_pointer_is_gone(tmp_path: Path) -> None:
    distillation = distillation_in(tmp_path)
    publish(distillation, small_inputs(), current=False)

    with pytest.raises(EvaluationError, match="no evaluation of 'sft' is the current one; write one of sft@"):
        find_evaluation(distillation, "sft")


def test_a_report_of_an_older_or_newer_release_is_read(tmp_path: Path) -> None:
    distillation = distillation_in(tmp_path)
    path = publish(distillation, small_inputs()).folder / "report.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for later in ("students", "teacher_usd_per_1000_answers", "gate"):
        del content[later]
    del content["training"]["seed"]
    content["judged"] = {"win_rate": 0.5}
    content["quality"][0]["p_value"] = 0.03
    path.write_text(json.dumps(content), encoding="utf-8")

    report = find_evaluation(distillation, "sft").report

    assert (report.training.seed, report.gate) == (None, None)
    assert report.measures("quality")["rouge_l"].systems["student"].n == 71


def test_the_rows_are_those_of_the_test_split_and_an_older_file_has_no_others(tmp_path: Path) -> None:
    stored = publish(distillation_in(tmp_path), with_held_out(small_inputs()))
    rows = pl.read_parquet(stored.folder / "predictions.parquet")
    test = rows.filter(split="test")
    assert len(test) < len(rows)

    assert stored.predictions().equals(test)
    test.drop("split").write_parquet(stored.folder / "predictions.parquet")
    assert stored.predictions().select(test.columns).equals(test)


def test_what_is_not_whole_is_named_and_what_is_not_published_is_not_seen(tmp_path: Path) -> None:
    distillation = distillation_in(tmp_path)
    stored = publish(distillation, small_inputs())
    stored.folder.rename(stored.folder.with_name(f".{stored.version}.1234.tmp"))
    assert stored_evaluations(distillation) == []

    again = publish(distillation, small_inputs())
    (again.folder / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"predictions\.parquet: cannot be read .*materialise the evaluation again"):
        again.predictions()
    (again.folder / "report.json").write_text('{"identity": {}}', encoding="utf-8")
    with pytest.raises(StorageError, match=r"report\.json: not a report \(identity\.spec_hash"):
        stored_evaluations(distillation)
