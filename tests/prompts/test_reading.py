"""Which rows of a source are known, and sources that are read in several chunks."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from distill_dagster import spill
from distill_dagster.project import Distillation
from distill_dagster.prompts import reading
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.reading import KnownRows
from distill_dagster.prompts.store import write_prompts

Declare = Callable[..., Distillation]
WriteRows = Callable[..., Path]
BY_TOPIC = {"by": "topic"}


@pytest.mark.parametrize("collide", [False, True])
def test_known_rows_are_told_even_where_short_hashes_collide(collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if collide:
        monkeypatch.setattr(pl.Series, "hash", lambda series: pl.repeat(7, len(series), dtype=pl.UInt64, eager=True))
    known = KnownRows(pl.Series(["c", "a", "b"]))

    assert known.are_in(pl.Series(["a", "x", "c", "a", "y"])).to_list() == [True, False, True, True, False]
    assert KnownRows(pl.Series([], dtype=pl.String)).are_in(pl.Series(["a"])).to_list() == [False]


def content(build: PromptBuild) -> dict[str, tuple[str, int, list[str]]]:
    return {
        name: (made.version, made.duplicate_rows, [str(row) for row in made.skipped])
        for name, made in build.partitions.items()
    }


def test_a_source_in_many_chunks_gives_the_same_prompts(
    declare: Declare, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"topic": f"t{n % 3}", "question": f"question {n % 11}?", "key": n % 11} for n in range(40)]
    write_rows([*rows, {"topic": "t0", "question": "another", "key": 5}, {"topic": "t1", "question": " ", "key": 90}])
    distillation = declare(partition=BY_TOPIC, id="key", on_bad_row="skip")
    whole = build_prompts(distillation)

    monkeypatch.setattr("distill_dagster.prompts.rows.BATCH_ROWS", 4)
    monkeypatch.setattr(reading, "CHUNK_ROWS", 4)
    monkeypatch.setattr(spill, "BUFFER_BYTES", 0)
    cut = build_prompts(distillation)

    assert content(cut) == content(whole)
    assert [str(row) for row in cut.bad] == [str(row) for row in whole.bad]
    assert cut.rendered_rows == whole.rendered_rows == sum(made.rows for made in cut.partitions.values())


def test_only_changed_rows_are_rendered_in_many_chunks(
    declare: Declare, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"topic": f"t{n % 2}", "question": f"question {n}?"} for n in range(20)]
    write_rows(rows)
    distillation = declare(partition=BY_TOPIC)
    for partition, prompts in build_prompts(distillation).partitions.items():
        write_prompts(distillation, partition, prompts)
    write_rows([*rows[:7], {"topic": "t1", "question": "edited"}, *rows[8:]])
    monkeypatch.setattr("distill_dagster.prompts.rows.BATCH_ROWS", 3)
    monkeypatch.setattr(reading, "CHUNK_ROWS", 3)

    assert build_prompts(distillation).rendered_rows == 1
