"""`distill gc`: what nothing refers to goes, and whatever leads somewhere stays."""

import os
from pathlib import Path

import pytest

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.garbage import find_garbage
from distill_dagster.catalog.of_students import student_lineage
from distill_dagster.storage import DistillationFolder, read_json
from distill_dagster.teachers.store.responses import ResponseStore
from tests.catalog.world import LAST, NEW, OLD, History

HOURS_AGO = 3 * 3600.0


def forget_builds(history: History, *assets: str) -> None:
    """As if no build of these kinds had been recorded."""
    for path in (history.project.home / "builds").glob("*.json"):
        if read_json(path)["asset"] in assets:
            path.unlink()


def found(history: History) -> set[tuple[str, str | None, str | None]]:
    folder = DistillationFolder(history.project.home, "faq")
    return {(one.kind, one.name, one.version) for one in find_garbage(folder)}


def test_nothing_goes_that_a_build_record_keeps(history: History) -> None:
    assert found(history) == set()


def test_without_records_only_what_is_current_or_released_stays_with_all_it_came_from(changing: History) -> None:
    first, second, _ = changing.datasets
    forget_builds(changing, "student", "evaluation", "dataset", "teacher_outputs")

    garbage = found(changing)

    kinds = {kind for kind, *_ in garbage}
    assert {(kind, version) for kind, _, version in garbage if kind in ("students", "dataset")} == {
        ("students", NEW),
        ("dataset", second.version),
    }
    assert kinds == {"students", "dataset", "teacher_outputs", "dropped"}
    with Catalog(changing.project, ["faq"]) as catalog:
        released = student_lineage(catalog, f"sft@{OLD}").dataset
    assert released is not None
    assert released.version == first.version
    for one in released.partitions:
        assert ("teacher_outputs", one.partition, one.teacher_outputs) not in garbage


def test_a_dry_run_says_what_the_run_then_removes(changing: History) -> None:
    forget_builds(changing, "student", "dataset", "teacher_outputs")
    (changing.project.home / "faq" / "releases" / "sft.json").unlink()
    faq, store = changing.faq, ResponseStore(changing.project.store_url)
    before, answers = files(changing), store.count()

    foreseen = faq.json("gc", "faq", "--dry-run")
    untouched = files(changing)
    done = faq.json("gc", "faq")

    assert untouched == before
    assert list(done) == [
        *("format", "distillation", "dry_run", "removed", "removed_bytes", "bytes_before", "bytes_after"),
        "shards_removed",
    ]
    assert (foreseen["dry_run"], done["dry_run"]) == (True, False)
    assert foreseen["removed"] == done["removed"]
    assert done["removed_bytes"] == sum(before.values()) - sum(files(changing).values()) > 0
    assert store.count() == answers
    assert faq.json("gc", "faq")["removed"] == []
    assert faq.json("lineage", "faq", "--student", "sft")["version"] == LAST


def files(history: History) -> dict[Path, int]:
    """The sizes of the distillation's files."""
    root = history.project.home / "faq"
    return {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}


def test_leftovers_go_once_they_are_quiet(changing: History) -> None:
    folder = changing.project.home / "faq" / "dataset"
    old, fresh = folder / ".aaaa.tmp", folder / ".bbbb.tmp"
    batch = changing.project.home / ".batch-x"
    for path in (old, fresh, batch):
        path.mkdir()
        (path / "rows.parquet").write_bytes(b"torn")
    for path in (old, batch):
        for part in (path / "rows.parquet", path):
            long_ago = part.stat().st_mtime - HOURS_AGO
            os.utime(part, (long_ago, long_ago))

    shown = changing.faq.call("gc", "faq").stdout

    assert "2 unreferenced versions and leftovers removed: 8 bytes" in shown
    assert (old.exists(), batch.exists(), fresh.exists()) == (False, False, True)


def test_outcomes_of_the_harness_stay_while_an_evaluation_names_them(changing: History) -> None:
    """Those of an evaluation that goes, and those that none names, go with it once they are quiet."""
    faq, (first, second, _) = changing.faq, changing.datasets
    named, replaced, orphan, fresh = "1a" * 16, "2a" * 16, "3a" * 16, "4a" * 16
    faq.evaluation(second, NEW, "e2" * 16, outcomes={"student": replaced, "base": named})
    faq.evaluation(first, OLD, "e3" * 16, outcomes={"student": named})
    folders = [faq.harness_outcome(key, OLD) for key in (named, replaced, orphan, fresh)]
    for folder in folders[:3]:
        for path in (*folder.iterdir(), folder):
            os.utime(path, (path.stat().st_mtime - HOURS_AGO,) * 2)

    recorded = found(changing)
    forget_builds(changing, "evaluation")
    forgotten = found(changing)

    assert {version for kind, _, version in recorded if kind == "harness"} == {orphan}
    assert {version for kind, _, version in forgotten if kind == "harness"} == {orphan, replaced}
    faq.json("gc", "faq")
    assert [folder.exists() for folder in folders] == [True, False, False, True]


def test_not_while_it_runs(changing: History) -> None:
    markers = changing.project.home / "faq" / ".work" / "running"
    markers.mkdir(parents=True)
    (markers / str(os.getpid())).touch()

    result = changing.faq.call("gc", "faq")

    assert result.stderr == f"error: faq: process {os.getpid()} is running it; run `distill gc` when it is done\n"
    assert changing.faq.call("gc", "faq", "--dry-run").exit_code == 0


@pytest.mark.parametrize("torn", ["students/sft/{student}/manifest.json", "releases/sft.json"])
def test_nothing_goes_when_something_cannot_be_read(changing: History, torn: str) -> None:
    forget_builds(changing, "student", "dataset", "teacher_outputs")
    path = changing.project.home / "faq" / torn.format(student=LAST)
    path.write_text("{", encoding="utf-8")
    before = files(changing)

    result = changing.faq.call("gc", "faq")

    assert result.exit_code == 1
    assert f"error: {path}: not valid JSON" in result.stderr
    assert files(changing) == before
