"""The prompts stage: what becomes a prompt, what fails which partition, and what is rendered again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill_dagster.errors import SourceError, StorageError, TemplateError
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.store import (
    PROMPTS_SCHEMA,
    read_prompts,
    remove_vanished,
    write_prompts,
    write_skipped,
)

Declare = Callable[..., Distillation]
WriteRows = Callable[..., Path]


def publish(distillation: Distillation) -> PromptBuild:
    build = build_prompts(distillation)
    for partition, prompts in build.partitions.items():
        write_prompts(distillation, partition, prompts)
    return build


def prompts_of(build: PromptBuild) -> pl.DataFrame:
    return pl.concat(part.frame for part in build.partitions.values()).sort("prompt_id")


def versions(build: PromptBuild) -> dict[str, str]:
    return {name: part.version for name, part in build.partitions.items()}


def test_a_row_becomes_a_prompt(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "Why?", "answer": 42, "topic": "ai"}])
    distillation = declare(system="About {{ topic }}.", reference="answer", partition={"by": "topic"})

    build = build_prompts(distillation)

    frame = build.partitions["ai"].frame
    assert dict(frame.schema) == PROMPTS_SCHEMA
    row = frame.row(0, named=True)
    assert json.loads(row["messages"]) == [
        {"role": "system", "content": "About ai."},
        {"role": "user", "content": "Why?"},
    ]
    assert row["student_messages"] == row["messages"]
    assert (row["text"], row["reference"], row["partition"]) == ("Why?", "42", "ai")
    assert row["prompt_id"] == row["row_hash"][:32]
    assert row["split"] in {"train", "validation", "test"}


def test_students_read_what_student_prompt_says(declare: Declare, write_rows: WriteRows, folder: Path) -> None:
    write_rows([{"question": "Why?"}])
    write_rows([{"prompt": "1+1?", "completion": "2"}], "few.json")
    block = {"system": "Be brief.", "few_shot": "few.json"}

    def roles(column: str, **student: bool) -> list[str]:
        frame = prompts_of(build_prompts(declare(student_prompt=student, **block)))
        return [message["role"] for message in json.loads(frame[column][0])]

    assert roles("messages") == ["system", "user", "assistant", "user"]
    assert roles("student_messages") == ["system", "user"]
    assert roles("student_messages", system=False) == ["user"]
    assert roles("student_messages", few_shot=True) == ["system", "user", "assistant", "user"]


def test_conversations_in_several_languages(declare: Declare, write_rows: WriteRows) -> None:
    chat = [
        {"role": "system", "content": "أجب بإيجاز."},
        {"role": "user", "content": "こんにちは"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "👩‍👩‍👧 说明一下？"},
    ]
    write_rows([{"chat": chat}, {"chat": json.dumps(chat[1:])}])

    frame = prompts_of(build_prompts(declare(messages="chat")))

    assert {len(json.loads(messages)) for messages in frame["messages"]} == {3, 4}
    assert frame["text"].to_list() == ["こんにちは\n👩‍👩‍👧 说明一下？"] * 2
    assert frame["group_id"].n_unique() == 1


def test_two_system_prompts_are_a_bad_row(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"chat": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}])

    build = build_prompts(declare(messages="chat", system="c"))

    assert "has a system message and prompts.system is declared too" in build.failed["all"]


def test_a_malformed_line_fails_the_only_partition(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a"}, '{"question": '])

    build = build_prompts(declare())

    assert list(build.failed) == ["all"]
    assert build.failed["all"].startswith("rows.jsonl:2: not valid JSON")
    assert build.partitions == {}


def test_a_bad_row_fails_its_own_partition_only(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a", "topic": "x"}, {"question": " ", "topic": "y"}, {"question": "b", "topic": "y"}])

    build = build_prompts(declare(partition={"by": "topic"}))

    assert list(build.partitions) == ["x"]
    assert build.failed["y"].startswith("rows.jsonl:2: empty prompt")
    assert build.names == ("x", "y")
    assert build.is_complete


def test_a_bad_row_of_unknown_partition_fails_all_and_says_so(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a", "topic": "x"}, "not json", {"question": "b", "topic": "y"}])

    build = build_prompts(declare(partition={"by": "topic"}))

    assert sorted(build.failed) == ["x", "y"]
    assert "cannot be known, so they fail every partition" in build.failed["x"]
    assert "rows.jsonl:2" in build.failed["x"]
    assert not build.is_complete


def test_skipped_rows_are_counted_and_listed(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a", "topic": "x"}, "not json", {"question": None, "topic": "x"}, {"question": "b"}])
    distillation = declare(partition={"by": "topic"}, on_bad_row="skip")

    build = build_prompts(distillation)
    listed = [json.loads(line) for line in write_skipped(distillation, build.bad).read_text().splitlines()]

    assert build.failed == {}
    assert build.partitions["x"].rows == 1
    assert [row.where for row in build.partitions["x"].skipped] == ["rows.jsonl:3"]
    assert sorted((row["where"], row["partition"]) for row in listed) == [
        ("rows.jsonl:2", None),
        ("rows.jsonl:3", "x"),
        ("rows.jsonl:4", None),
    ]


def test_sources_without_any_prompt_are_errors(declare: Declare, write_rows: WriteRows) -> None:
    for rows, options, message in (
        ([""], {}, "no rows in"),
        (["x"], {"partition": {"by": "topic"}}, r"rows\.jsonl:1"),
        (["x"], {"on_bad_row": "skip"}, "every row was skipped"),
    ):
        write_rows(rows)
        with pytest.raises(SourceError, match=message):
            build_prompts(declare(**options))


def test_long_complaints_are_cut(declare: Declare, write_rows: WriteRows) -> None:
    write_rows(["x"] * 30)

    assert "… and 20 more" in build_prompts(declare()).failed["all"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{{ quest }}"}, r"prompts\.prompt: .*'quest'.*did you mean 'question'"),
        ({"system": "{{ nothing }}"}, r"prompts\.system: .*'nothing'"),
        ({"reference": "answer"}, r"prompts\.reference: .*'answer'"),
        ({"id": "key"}, r"prompts\.id: .*'key'"),
        ({"group": "customer"}, r"prompts\.group: .*'customer'"),
        ({"messages": "chat"}, r"prompts\.messages: .*'chat'"),
        ({"partition": {"by": "topic"}}, r"prompts\.partition: .*'topic'"),
    ],
)
def test_a_column_that_is_not_there_is_named(
    declare: Declare, write_rows: WriteRows, options: dict[str, Any], message: str
) -> None:
    write_rows([{"question": "a"}])

    with pytest.raises(TemplateError, match=message):
        build_prompts(declare(**options))


def test_a_column_that_only_a_later_row_has_is_null_before(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a"}])
    before = prompts_of(build_prompts(declare()))
    write_rows([{"question": "a"}, {"question": "b", "answer": "yes"}])

    after = prompts_of(build_prompts(declare(reference="answer")))

    assert sorted(after["reference"], key=str) == [None, "yes"]
    assert before["prompt_id"][0] in after["prompt_id"]


def test_equal_rows_count_once_and_clashing_ids_name_both_places(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a", "id": 1}, {"id": 1, "question": "a"}, {"question": "b", "id": 2}])
    build = build_prompts(declare(id="id"))
    assert (build.partitions["all"].rows, build.partitions["all"].duplicate_rows) == (2, 1)

    write_rows([{"question": "a", "id": 1}], "more.jsonl")
    write_rows([{"question": "b", "id": 1}])
    build = build_prompts(declare(id="id"))
    assert build.failed["all"].startswith("rows.jsonl:1: id '1' is also at more.jsonl:1, with other content")


def test_identity_and_split_outlive_a_new_template(declare: Declare, write_rows: WriteRows) -> None:
    write_rows({"question": f"Question {i}?"} for i in range(50))
    keys = ["prompt_id", "group_id", "split"]

    plain = prompts_of(build_prompts(declare()))
    worded = prompts_of(build_prompts(declare(prompt="Please answer: {{ question }}", system="Be kind.")))

    assert plain.select(keys).equals(worded.select(keys))
    assert not plain["messages"].equals(worded["messages"])


def test_prompts_that_differ_in_spelling_share_a_split(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "What is AI?"}, {"question": "what is  AI"}, {"question": "What is ML?"}])

    assert prompts_of(build_prompts(declare()))["group_id"].n_unique() == 2


def test_a_group_column_keeps_rows_together(declare: Declare, write_rows: WriteRows) -> None:
    write_rows({"question": f"q{i}", "customer": i % 5} for i in range(60))

    frame = prompts_of(build_prompts(declare(group="customer", split={"validation": 0.3, "test": 0.3})))

    assert frame["group_id"].n_unique() == 5
    assert frame.group_by("group_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 5


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(12)))
def test_the_order_of_rows_does_not_matter(declare: Declare, write_rows: WriteRows, order: list[int]) -> None:
    write_rows({"question": f"q{i}", "topic": i % 2} for i in range(12))
    expected = versions(build_prompts(declare(partition={"by": "topic"})))

    write_rows({"topic": i % 2, "question": f"q{i}"} for i in order)

    assert versions(build_prompts(declare(partition={"by": "topic"}))) == expected


def test_the_version_follows_content_not_layout(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "a", "answer": "1", "topic": "x", "id": "k"}])
    base = versions(build_prompts(declare(id="id")))["all"]

    assert versions(build_prompts(declare(id="id", partition={"by": "topic"})))["x"] == base
    for change in (
        {"prompt": "{{ question }}!"},
        {"system": "s"},
        {"reference": "answer"},
        {"group": "topic"},
        {},
        {"split": {"validation": 0, "test": 0.999}},
    ):
        assert versions(build_prompts(declare(**({"id": "id"} if change else {}), **change)))["all"] != base
    write_rows([{"question": "a", "answer": "1", "topic": "x", "id": "k", "unused": "note"}])
    assert versions(build_prompts(declare(id="id")))["all"] == base


def test_only_changed_rows_are_rendered_again(declare: Declare, write_rows: WriteRows) -> None:
    rows = [{"question": f"q{i}", "topic": i % 3} for i in range(30)]
    write_rows(rows)
    first = publish(declare(partition={"by": "topic"}))
    rows[7]["question"] = "edited"
    write_rows(rows)

    second = build_prompts(declare(partition={"by": "topic"}))
    anew = build_prompts(declare(partition={"by": "topic"}), reuse=False)

    assert (first.rendered_rows, second.rendered_rows, anew.rendered_rows) == (30, 1, 30)
    assert prompts_of(second).equals(prompts_of(anew))
    assert [name for name in first.names if versions(first)[name] != versions(second)[name]] == ["1"]


def test_new_settings_render_everything_again(declare: Declare, write_rows: WriteRows) -> None:
    write_rows({"question": f"q{i}"} for i in range(5))
    publish(declare())

    assert build_prompts(declare()).rendered_rows == 0
    assert build_prompts(declare(prompt="{{ question }}!")).rendered_rows == 5
    assert build_prompts(declare(partition={"shards": 2})).rendered_rows == 5


def test_a_few_shot_edit_renders_again(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "q"}])
    write_rows([{"prompt": "1+1?", "completion": "2"}], "few.json")
    publish(declare(few_shot="few.json"))
    write_rows([{"prompt": "1+1?", "completion": "two"}], "few.json")

    build = build_prompts(declare(few_shot="few.json"))

    assert build.rendered_rows == 1
    assert "two" in prompts_of(build)["messages"][0]


def test_writing_twice_changes_nothing(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "q", "topic": "../a b/ü"}])
    distillation = declare(partition={"by": "topic"})
    build = build_prompts(distillation)
    prompts = build.partitions["../a b/ü"]

    assert write_prompts(distillation, "../a b/ü", prompts)
    assert not write_prompts(distillation, "../a b/ü", prompts)
    assert read_prompts(distillation, "../a b/ü").equals(prompts.frame)
    assert distillation.files.partitions("prompts") == ["../a b/ü"]
    assert read_prompts(distillation, "../a b/ü", prompts.version).equals(prompts.frame)


def test_partitions_gone_from_the_source_go_out_of_sight(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": "q", "topic": "x"}, {"question": "q", "topic": "y"}])
    distillation = declare(partition={"by": "topic"})
    publish(distillation)
    write_rows([{"question": "q", "topic": "x"}])

    assert remove_vanished(distillation, build_prompts(distillation).names) == ["y"]

    assert distillation.files.partitions("prompts") == ["x"]
    with pytest.raises(StorageError, match="partition 'y' has no prompts yet"):
        read_prompts(distillation, "y")


def test_daily_partitions_and_shards(declare: Declare, write_rows: WriteRows) -> None:
    write_rows({"question": f"q{i}", "at": f"2026-01-0{i % 3 + 1}T12:00:00Z"} for i in range(9))

    daily = build_prompts(declare(partition={"daily": "at", "start": "2026-01-01"}))
    sharded = build_prompts(declare(partition={"shards": 4}))

    assert daily.names == ("2026-01-01", "2026-01-02", "2026-01-03")
    assert set(sharded.names) <= {"0", "1", "2", "3"}
    assert prompts_of(daily).drop("partition").equals(prompts_of(sharded).drop("partition"))


def test_a_bad_row_with_an_id_fails_its_shard(declare: Declare, write_rows: WriteRows) -> None:
    write_rows([{"question": f"q{i}", "id": i} for i in range(20)] + [{"question": "", "id": "empty"}])

    build = build_prompts(declare(id="id", partition={"shards": 8}))

    assert len(build.failed) == 1
    assert len(build.partitions) > 3
