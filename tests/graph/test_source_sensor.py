"""The sensor on the source: one request a change, for the right partitions, and nothing for a touched file."""

import json
import os
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from distill_dagster.graph import source_sensor
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.source_look import QUICK_BYTES
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import prompts_version
from tests.graph.hosted import Declare, rows, spec

PROMPTS = asset_key("demo", "prompts")
KNOWN = "demo_partitions"


class World:
    """A distillation, its sensor, and the instance they are in."""

    def __init__(self, declare: Declare, instance: dg.DagsterInstance, attributes: str) -> None:
        self._declare = declare
        self._attributes = attributes
        self.instance = instance
        self._cursor: str | None = None
        self._age = 1_000_000_000

    def write(self, **files: str) -> Distillation:
        """Writes the source's files, each time at another time long ago."""
        distillation = self._declare(self._attributes, **files)
        self._age += 60
        for name in files:
            os.utime(distillation.folder / name.replace("__", "."), (self._age, self._age))
        self.distillation = distillation
        return distillation

    def tick(self) -> Any:
        definitions = build_definitions(self.distillation)
        sensor = definitions.resolve_sensor_def("demo_source")
        with dg.build_sensor_context(instance=self.instance, cursor=self._cursor, definitions=definitions) as context:
            decision = sensor(context)
            self._cursor = context.cursor
        return decision

    def execute(self, request: dg.RunRequest) -> bool:
        """Launches a requested run as the daemon would."""
        job = build_definitions(self.distillation).resolve_job_def(str(request.job_name))
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=list(request.asset_selection) if request.asset_selection else None,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            run_config=dict(request.run_config),
            raise_on_error=False,
        ).success

    def settle(self) -> None:
        """Lets the sensor and the runs it asks for come to rest."""
        decision = self.tick()
        assert isinstance(decision, dg.RunRequest), decision
        self.execute(decision)
        assert reason(self.tick()) == "the source is as it was"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def world(declare: Declare, instance: dg.DagsterInstance) -> World:
    made = World(declare, instance, spec())
    made.write(rows__jsonl=rows(birds=3, fish=2))
    return made


def reason(decision: Any) -> str:
    assert isinstance(decision, dg.SkipReason), decision
    return str(decision.skip_message)


def partitions(request: Any) -> list[str]:
    """Those that a run is requested for."""
    assert isinstance(request, dg.RunRequest), request
    config: list[str] = request.run_config["ops"]["demo__partitioned"]["config"]["partitions"]
    return config


def made(world: World) -> dict[str, str | None]:
    """What Dagster says of each partition's prompts: their data version."""
    known = world.instance.get_materialized_partitions(PROMPTS)
    records = {name: dg.AssetRecordsFilter(PROMPTS, asset_partitions=[name]) for name in known}
    newest = {
        name: world.instance.fetch_materializations(wanted, limit=1).records[0] for name, wanted in records.items()
    }
    return {
        name: (record.asset_materialization.tags or {})["dagster/data_version"]
        for name, record in newest.items()
        if record.asset_materialization
    }


def test_it_is_on_without_being_asked_for(world: World) -> None:
    sensor = build_definitions(world.distillation).resolve_sensor_def("demo_source")

    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 60


def test_it_can_be_switched_off(declare: Declare) -> None:
    distillation = declare(spec("automation: {sensor: false}"))

    assert [sensor.name for sensor in build_definitions(distillation).sensors or ()] == []


def test_a_new_source_is_registered_and_requested_and_not_reported(world: World) -> None:
    request = world.tick()

    assert partitions(request) == ["birds", "fish"]
    assert list(request.asset_selection) == [PROMPTS]
    assert world.instance.get_dynamic_partitions(KNOWN) == ["birds", "fish"]
    assert made(world) == {}
    assert prompts_version(world.distillation, "birds") is None

    assert world.execute(request)
    assert made(world) == {name: prompts_version(world.distillation, name) for name in ("birds", "fish")}
    assert reason(world.tick()) == "the source is as it was"


def test_the_same_change_is_one_request(world: World) -> None:
    assert world.tick().run_key == world.tick().run_key


def test_a_changed_row_asks_for_its_partition_only(world: World) -> None:
    world.settle()
    world.write(rows__jsonl=rows(birds=3, fish=2).replace("fish question 1", "fish question one"))

    assert partitions(world.tick()) == ["fish"]


def test_a_touched_file_asks_for_nothing(world: World) -> None:
    world.settle()
    world.write(rows__jsonl=rows(birds=3, fish=2))

    assert reason(world.tick()) == "the source is as it was"


def test_rows_in_another_order_ask_for_nothing(world: World) -> None:
    world.settle()
    world.write(rows__jsonl=rows(fish=2, birds=3))

    assert reason(world.tick()) == "the source changed, its prompts are those on disk"


def test_a_partition_that_appears_is_registered_and_one_that_vanished_is_removed(world: World) -> None:
    world.settle()
    world.write(rows__jsonl=rows(birds=3, reptiles=1))

    assert partitions(world.tick()) == ["reptiles"]
    assert world.instance.get_dynamic_partitions(KNOWN) == ["birds", "reptiles"]
    assert world.distillation.files.partitions("prompts") == ["birds"]


def test_a_partition_that_only_vanished_asks_for_no_run(world: World) -> None:
    world.settle()
    world.write(rows__jsonl=rows(birds=3))

    assert reason(world.tick()).endswith("no longer there: fish")
    assert world.instance.get_dynamic_partitions(KNOWN) == ["birds"]
    assert reason(world.tick()) == "the source is as it was"


def test_an_edit_that_comes_back_is_requested_again(world: World) -> None:
    before, after = rows(birds=3, fish=2), rows(birds=4, fish=2)
    world.settle()
    keys = []
    for content in (after, before, after):
        world.write(rows__jsonl=content)
        request = world.tick()
        keys.append(request.run_key)
        assert world.execute(request)

    assert len(set(keys)) == 3
    assert reason(world.tick()) == "the source is as it was"


def test_a_bad_row_fails_its_partition_once_and_the_others_are_made(world: World) -> None:
    world.write(rows__jsonl=rows(birds=3) + '{"topic": "fish", "question": ""}\n')
    request = world.tick()

    assert partitions(request) == ["birds", "fish"]
    assert not world.execute(request)
    assert set(made(world)) == {"birds"}
    assert reason(world.tick()) == "the source is as it was"

    world.write(rows__jsonl=rows(birds=3, fish=1))
    assert partitions(world.tick()) == ["fish"]


def test_a_run_that_did_not_make_its_prompts_is_requested_again_and_not_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    keys = []
    with monkeypatch.context() as broken:
        broken.setattr("distill_dagster.graph.partitioned.write_prompts", fail)
        for _ in range(source_sensor.ATTEMPTS):
            request = world.tick()
            keys.append(request.run_key)
            assert not world.execute(request)
        assert "have not made the prompts of birds, fish" in reason(world.tick())

    assert len(set(keys)) == source_sensor.ATTEMPTS


def test_a_source_that_cannot_be_read_is_a_reason_and_is_looked_at_again(world: World) -> None:
    (world.distillation.folder / "rows.jsonl").unlink()
    assert "no file matches 'rows.jsonl'" in reason(world.tick())

    world.write(rows__jsonl=rows(birds=1))
    assert partitions(world.tick()) == ["birds"]


def test_a_file_that_is_being_written_is_left_until_it_rests(world: World) -> None:
    path = world.distillation.folder / "rows.jsonl"
    path.touch()
    assert "written just now" in reason(world.tick())

    os.utime(path, (1, 1))
    assert partitions(world.tick()) == ["birds", "fish"]


def test_an_unchanged_source_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settle()

    def refuse(*arguments: object) -> None:
        raise AssertionError("the source was read")

    monkeypatch.setattr("distill_dagster.graph.source_look.build_prompts", refuse)
    assert reason(world.tick()) == "the source is as it was"

    world.write(rows__jsonl=rows(birds=1))
    with pytest.raises(AssertionError, match="the source was read"):
        world.tick()


def test_a_large_source_is_read_by_a_run_before_its_prompts_are_requested(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUICK_BYTES, "jsonl", 10)
    first = world.tick()
    assert first.job_name == "demo_look"
    assert world.tick().run_key == first.run_key
    assert world.instance.get_dynamic_partitions(KNOWN) == []

    assert world.execute(first)
    assert world.instance.get_dynamic_partitions(KNOWN) == ["birds", "fish"]

    def refuse(*arguments: object) -> None:
        raise AssertionError("the source was read in the tick")

    with monkeypatch.context() as no_reading:
        no_reading.setattr("distill_dagster.graph.source_look.build_prompts", refuse)
        request = world.tick()
    assert partitions(request) == ["birds", "fish"]
    assert world.execute(request)
    assert reason(world.tick()) == "the source is as it was"


def test_a_source_that_took_long_to_read_goes_to_a_run_the_next_time(world: World) -> None:
    world.settle()
    kept = world.distillation.files.asset("prompts") / "look.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"seconds": 30.0}))
    world.write(rows__jsonl=rows(birds=4, fish=2))

    assert world.tick().job_name == "demo_look"


def test_a_python_source_is_requested_when_its_module_changes(declare: Declare, instance: dg.DagsterInstance) -> None:
    world = World(declare, instance, spec().replace("{jsonl: rows.jsonl}", "{python: corpus.rows}"))
    text = "def rows():\n    return [{'topic': 'birds', 'question': 'How?'}]\n"
    world.write(corpus__py=text)
    first = world.tick()
    assert first.job_name == "demo_look", "nobody knows how long a function takes"
    assert world.execute(first)
    request = world.tick()
    assert partitions(request) == ["birds"]
    assert world.execute(request)

    world.write(corpus__py=text.replace("How?", "Why?"))
    assert partitions(world.tick()) == ["birds"]


def test_a_query_without_a_watermark_says_what_to_write(declare: Declare, instance: dg.DagsterInstance) -> None:
    world = World(declare, instance, spec().replace("{jsonl: rows.jsonl}", '{sql: "select 1 as question"}'))
    world.write()

    assert "write automation.watermark" in reason(world.tick())
