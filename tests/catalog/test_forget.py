"""`distill forget`: nothing that was stored has the prompt afterwards, and it does not come back."""

import dataclasses
import os
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.catalog.forget import forget
from distill_dagster.catalog.forgetting import find_forgettable
from distill_dagster.errors import StorageError
from distill_dagster.lineage.tombstones import read_tombstones
from distill_dagster.logits.index import missing_rows, read_index, write_index
from distill_dagster.logits.shards import read_keys, shards_folder, write_shard
from distill_dagster.prompts.build import build_prompts
from distill_dagster.storage import Current, read_current, write_current
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.responses import ResponseStore
from tests.catalog.world import LAST, NEW, OLD, History
from tests.logits.targets import VOCABULARY, index_of, make_sequence, topk_identity


def mentions(history: History, text: str) -> list[Path]:
    """Files under DISTILL_HOME that have a text, as it is or in Parquet."""
    found = []
    for path in history.project.home.rglob("*"):
        if path.suffix == ".parquet":
            rows = pl.read_parquet(path)
            texts = rows.select(pl.concat_str(pl.col(pl.String).fill_null(""), separator="\n"))
            if texts.to_series().str.contains(text, literal=True).any():
                found.append(path)
        elif path.is_file() and text.encode() in path.read_bytes():
            found.append(path)
    return found


def question(history: History, prompt_id: str) -> str:
    # whole: `fish question 1` is also in `fish question 10`
    return history.faq.questions[prompt_id]


@pytest.fixture
def prompt(history: History) -> str:
    """A training prompt whose question is in no other's."""
    asked = history.faq.questions
    return next(
        key
        for key in asked
        if key in history.prompts_in("train") and sum(asked[key] in other for other in asked.values()) == 1
    )


def test_a_dry_run_changes_nothing_and_says_what_goes(changing: History, prompt: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in changing.project.home.rglob("*.parquet")}

    content = changing.faq.json("forget", "--prompt", prompt)
    shown = changing.faq.call("forget", "--prompt", prompt).stdout

    assert list(content) == ["format", "done", "prompts", "responses", "versions", "stale"]
    assert (content["done"], content["responses"]) == (False, 2)
    assert content["prompts"] == [{"distillation": name, "prompt_id": prompt} for name in ("faq", "other")]
    assert {(one["distillation"], one["student"], one["version"]) for one in content["stale"]} == {
        *(("faq", "sft", version) for version in (OLD, NEW, LAST)),
        ("other", "sft", OLD),
    }
    assert "nothing was changed; add --yes to do it" in shown
    assert {path: path.stat().st_mtime_ns for path in changing.project.home.rglob("*.parquet")} == before
    assert read_tombstones(changing.project.home) == []


def test_it_is_gone_everywhere_and_stays_away(changing: History, prompt: str) -> None:
    text, store = question(changing, prompt), ResponseStore(changing.project.store_url)
    answers = store.count()
    assert mentions(changing, text)

    done = changing.faq.json("forget", "--prompt", prompt, "--yes")

    assert done["done"] is True
    assert mentions(changing, text) == []
    assert store.count() == answers - 2
    prompts = build_prompts(changing.faq.distillation)
    topic = prompt.partition("-")[0]
    assert {name: made.forgotten for name, made in prompts.partitions.items() if made.forgotten} == {topic: 1}
    assert prompt not in prompts.partitions[topic].frame["prompt_id"]
    assert changing.faq.call("lineage", "--prompt", prompt).stderr == (
        f"error: no prompt {prompt!r} is stored in faq, other\n"
    )


def test_the_next_run_asks_nothing_again_and_students_are_listed(changing: History, prompt: str) -> None:
    before = dict(changing.datasets[2].split_counts)
    changing.faq.call("forget", "--prompt", prompt, "--yes")

    kept = read_current(changing.faq.distillation.files.asset("prompts", prompt.partition("-")[0]))
    after = changing.faq.run()  # there is no teacher to be asked: all other answers are stored

    assert read_current(changing.faq.distillation.files.asset("prompts", prompt.partition("-")[0])) == kept
    assert sum(after.split_counts.values()) == sum(before.values()) - 1
    assert mentions(changing, question(changing, prompt)) == []
    assert changing.faq.json("lineage", "faq", "--student", "sft")["stale"] is True
    stale = changing.faq.json("status", "faq")["stale"]
    assert [(one["student"], one["current"]) for one in stale] == [("sft", True), ("sft", False), ("sft", False)]
    assert {one["version"] for one in stale} == {OLD, NEW, LAST}
    assert "stale: student sft@03030303 (current) saw a prompt that was forgotten since" in (
        changing.faq.call("status", "faq").stdout
    )


def test_the_same_content_under_another_id_does_not_come_back(changing: History, prompt: str) -> None:
    changing.faq.call("forget", "--prompt", prompt, "--yes")
    topic = prompt.partition("-")[0]
    changing.faq.questions[f"{topic}-99"] = changing.faq.questions.pop(prompt)

    prompts = build_prompts(changing.faq.distillation)

    assert prompts.partitions[topic].forgotten == 1
    assert f"{topic}-99" not in prompts.partitions[topic].frame["prompt_id"]


def test_twins_go_together(changing: History) -> None:
    content = changing.faq.json("forget", "faq", "--prompt", "fish-10")

    assert [(one["distillation"], one["prompt_id"]) for one in content["prompts"]] == [
        (name, twin) for name in ("faq", "other") for twin in ("fish-10", "fish-11")
    ]


def test_the_tombstone_is_salted_and_counts(changing: History, prompt: str) -> None:
    home = changing.project.home
    changing.faq.call("forget", "--prompt", prompt, "--yes")

    [tombstone] = read_tombstones(home)
    salt = home / "forgotten" / "salt"

    assert tombstone.finished
    assert (tombstone.removed["responses"], tombstone.removed["prompt_ids"]) == (2, 2)
    assert {student.version for student in tombstone.students} == {OLD, NEW, LAST}
    assert salt.stat().st_mode & 0o077 == 0
    written = next((home / "forgotten").glob("*.json")).read_text(encoding="utf-8")
    assert prompt not in written
    salt.unlink()
    with pytest.raises(StorageError, match="forgotten prompts would come back"):
        build_prompts(changing.faq.distillation)


def test_students_of_a_dataset_that_is_gone_count_as_having_seen(changing: History, history: History) -> None:
    first, second = history.prompts_in("train")[:2]
    changing.faq.call("forget", "faq", "--prompt", first, "--yes")

    again = changing.faq.json("forget", "faq", "--prompt", second)

    assert {one["version"] for one in again["stale"] if one["distillation"] == "faq"} == {OLD, NEW, LAST}


def test_money_stays_counted(changing: History, prompt: str) -> None:
    engine = ResponseStore(changing.project.store_url).engine
    with engine.connect() as connection:
        before = Budget("faq", None).spent_in(connection)

    changing.faq.call("forget", "--prompt", prompt, "--yes")

    with engine.connect() as connection:
        assert Budget("faq", None).spent_in(connection) == before > 0


@pytest.mark.parametrize("stop_at", ["remove_responses", "_rewrite_dropped", "_remove", "compact", "finish_tombstones"])
def test_a_kill_in_between_is_made_good(
    changing: History, prompt: str, stop_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    (changing.project.home / "faq" / "teacher_logits").mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(f"distill_dagster.catalog.forget.{stop_at}", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(changing.project, find_forgettable(changing.project, prompt))
    assert not any(one.finished for one in read_tombstones(changing.project.home))
    assert build_prompts(changing.faq.distillation).partitions[prompt.partition("-")[0]].forgotten == 1

    changing.faq.call("forget", "--prompt", prompt, "--yes")

    assert mentions(changing, question(changing, prompt)) == []
    assert all(one.finished for one in read_tombstones(changing.project.home))


def test_not_while_it_runs_and_not_what_is_not_there(changing: History, prompt: str) -> None:
    markers = changing.project.home / "other" / ".work" / "running"
    markers.mkdir(parents=True)
    (markers / str(os.getpid())).touch()

    running = changing.faq.call("forget", "faq", "--prompt", prompt, "--yes")
    absent = changing.faq.call("forget", "faq", "--prompt", "nope")

    assert running.stderr == f"error: other: process {os.getpid()} is running it; forget when it is done\n"
    assert absent.stderr == "error: no prompt 'nope' is stored in faq\n"
    assert read_tombstones(changing.project.home) == []


def test_captured_logits_are_rewritten_without_it(changing: History, prompt: str) -> None:
    root, partition = changing.project.home / "faq", prompt.partition("-")[0]
    identity = topk_identity()
    shard = shards_folder(root, identity) / "one.parquet"
    write_shard(shard, identity, VOCABULARY, [make_sequence(identity, name) for name in "abcdef"])
    whole = index_of(identity, shard)
    own = pl.when(pl.col("request_key") == "c").then(pl.lit(prompt)).otherwise("prompt_id").alias("prompt_id")
    folder = root / "teacher_logits" / partition
    version = write_index(folder, dataclasses.replace(whole, frame=whole.frame.with_columns(own)), shard.parent)
    write_current(folder, Current(version))

    result = changing.faq.call("forget", "--prompt", prompt, "--yes")

    assert result.exit_code == 0, result.stderr
    current = read_current(folder)
    assert current is not None
    assert [path.stem for path in folder.glob("*.parquet")] == [current.version]
    index = read_index(folder / f"{current.version}.parquet")
    assert missing_rows(index, shard.parent).is_empty()
    assert sorted(index.frame["request_key"]) == list("abdef")
    [rewritten] = shard.parent.glob("*.parquet")
    assert sorted(read_keys(rewritten)["request_key"]) == list("abdef")
