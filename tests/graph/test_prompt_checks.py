"""The checks on prompts: every run that makes some logs whether they have drifted, and any can be run alone."""

import json

import dagster as dg
import polars as pl
import pytest

from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.finding import SCHEMA
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.partitions import RANGE_END, RANGE_START
from distill_dagster.graph.prompt_checks import LENGTHS, TOPICS
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import prompts_file
from tests.graph.hosted import Declare, spec

PROMPTS = asset_key("demo", "prompts")
LONG = "and, please, explain it at length, with the history of the matter and with every exception to the rule "


def rows(topic: str, count: int, ask: str = "what is the price of") -> str:
    lines = [{"topic": topic, "question": f"{ask} item {number}?"} for number in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def make(distillation: Distillation, instance: dg.DagsterInstance, partition: str | None = None) -> None:
    instance.add_dynamic_partitions("demo_partitions", ["birds", "fish"])
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    tags = {} if partition else {RANGE_START: "birds", RANGE_END: "fish"}
    job.execute_in_process(instance=instance, asset_selection=[PROMPTS], partition_key=partition, tags=tags)


def newest(instance: dg.DagsterInstance, check: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(PROMPTS, check)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert isinstance(record.evaluation, dg.AssetCheckEvaluation)
    return record.evaluation


def table(value: object) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def test_an_undrifted_edit_passes_and_a_drifted_one_warns(declare: Declare, instance: dg.DagsterInstance) -> None:
    make(declare(spec(), rows__jsonl=rows("birds", 60) + rows("fish", 60)), instance)
    assert {check: newest(instance, check).passed for check in (LENGTHS, TOPICS, SCHEMA)} == dict.fromkeys(
        (LENGTHS, TOPICS, SCHEMA), True
    )
    assert "the first version" in str(newest(instance, LENGTHS).description)

    make(declare(spec(), rows__jsonl=rows("birds", 63) + rows("fish", 60)), instance)
    lengths, topics = newest(instance, LENGTHS), newest(instance, TOPICS)
    assert (lengths.passed, topics.passed) == (True, True)
    assert "123 prompts, 120 in the version before" in str(lengths.description)

    make(declare(spec(), rows__jsonl=rows("birds", 63) + rows("fish", 60, LONG)), instance)
    lengths, topics = newest(instance, LENGTHS), newest(instance, TOPICS)
    assert (lengths.passed, lengths.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (topics.passed, topics.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "fish (" in str(lengths.description)
    shares = table(lengths.metadata["lengths"])
    assert sum(float(str(row["now"]).rstrip("%")) for row in shares) == pytest.approx(100, abs=1)
    assert shares[-1]["before"] == "0.0%"
    assert [row["partition"] for row in table(lengths.metadata["changed partitions"])] == ["fish"]
    assert table(topics.metadata["shares of topic"])[0] == {"topic": "birds", "before": "51.2%", "now": "51.2%"}


def test_a_partition_made_alone_is_compared_with_its_former_version(
    declare: Declare, instance: dg.DagsterInstance
) -> None:
    first = rows("birds", 60) + rows("fish", 900)
    make(declare(spec(), rows__jsonl=first), instance)

    make(declare(spec(), rows__jsonl=rows("birds", 60, LONG) + rows("fish", 900)), instance, "birds")

    assert "lengths have drifted in birds (" in str(newest(instance, LENGTHS).description)


def test_without_a_column_there_are_no_shares(declare: Declare, instance: dg.DagsterInstance) -> None:
    written = spec().replace("{by: topic}", "{shards: 2}")
    job = build_definitions(declare(written, rows__jsonl=rows("birds", 40))).resolve_implicit_global_asset_job_def()
    range_ = {RANGE_START: "0", RANGE_END: "1"}
    job.execute_in_process(instance=instance, asset_selection=[PROMPTS], tags=range_)
    changed = declare(written, rows__jsonl=rows("birds", 40, LONG))
    job = build_definitions(changed).resolve_implicit_global_asset_job_def()

    job.execute_in_process(instance=instance, asset_selection=[PROMPTS], tags=range_)

    topics = newest(instance, TOPICS)
    assert not topics.passed
    assert set(topics.metadata) == {"stability index", "index by chance", "changed partitions"}


def test_a_check_alone_finds_a_file_with_other_columns(declare: Declare, instance: dg.DagsterInstance) -> None:
    distillation = declare(spec(), rows__jsonl=rows("birds", 4) + rows("fish", 4))
    make(distillation, instance)
    file = prompts_file(distillation, "fish")
    pl.read_parquet(file).drop("reference").write_parquet(file)
    job = build_definitions(distillation).resolve_implicit_global_asset_job_def()
    checks = {dg.AssetCheckKey(PROMPTS, SCHEMA)}

    job.get_subset(asset_selection=set(), asset_check_selection=checks).execute_in_process(instance=instance)

    schema = newest(instance, SCHEMA)
    assert not schema.passed
    assert table(schema.metadata["files"]) == [{"file": f"fish/{file.name}", "columns": "reference"}]
