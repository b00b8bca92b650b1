"""Golden rows and training: what asks the same is left out, and a row that comes in on another way is found."""

import json
from collections.abc import Callable

import polars as pl
import pytest

from distill_dagster.dataset.build import build_dataset, dataset_build_key, dropped_rows
from distill_dagster.dataset.leakage import require_no_golden_rows
from distill_dagster.errors import DatasetError
from distill_dagster.golden.build import build_golden_set
from distill_dagster.project import Distillation
from distill_dagster.spec.golden import GoldenSetSpec
from tests.dataset.frames import output, prompt, publish_outputs, publish_prompts

Declare = Callable[..., Distillation]
NEAR = "How can I change the address that my next parcel will be sent to?"
PROMPTS = [
    prompt("exact", "Where is my PARCEL?"),
    prompt("near", f"{NEAR[:-1]} ?!"),
    prompt("late", "Can I pay by invoice instead of by card?", "validation"),
    prompt("kept", "Do you sell gift cards in the shop?"),
    prompt("tested", "Where is my parcel?", "test"),
]
GOLDEN = ["Where is my parcel?", NEAR, "Can I pay by invoice instead of by card?", "What is the weather like?"]


def with_golden(distillation: Distillation, questions: list[str]) -> Distillation:
    distillation.folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"q": text, "reference": "yes", "verified": True}) + "\n" for text in questions]
    (distillation.folder / "golden.jsonl").write_text("".join(lines), encoding="utf-8")
    spec = distillation.spec.model_copy(update={"golden_set": GoldenSetSpec(jsonl="golden.jsonl")})
    return Distillation(distillation.project, distillation.name, distillation.folder, spec)


@pytest.fixture
def published(declare: Declare) -> Distillation:
    distillation = declare(drop=[])
    publish_prompts(distillation, "all", PROMPTS)
    publish_outputs(distillation, "all", [output(row["prompt_id"]) for row in PROMPTS])
    return distillation


def test_rows_that_ask_what_a_golden_row_asks_are_never_learnt(published: Distillation) -> None:
    distillation = with_golden(published, GOLDEN)
    golden = build_golden_set(distillation).frame

    build = build_dataset(distillation)

    dropped = dropped_rows(distillation, build.build_key)
    assert dropped["prompt_id"].to_list() == ["exact", "late", "near"]
    assert set(dropped["reason"]) == {"golden_leakage"}
    by_id = dict(golden.select("prompt_id", "text").iter_rows())
    assert by_id[dropped.filter(pl.col("prompt_id") == "near")["detail"][0]] == NEAR
    assert build.split_counts == {"train": 1, "validation": 0, "test": 1}
    require_no_golden_rows(distillation, build.version)


def test_a_golden_set_that_touches_no_row_leaves_the_version(published: Distillation) -> None:
    plain = build_dataset(published)
    distillation = with_golden(published, ["What is the weather like?"])
    build_golden_set(distillation)

    build = build_dataset(distillation)

    assert build.version == plain.version
    assert build.build_key != plain.build_key


def test_the_golden_set_comes_before_the_dataset(published: Distillation) -> None:
    distillation = with_golden(published, GOLDEN)

    assert dataset_build_key(distillation) is None
    with pytest.raises(DatasetError, match="the golden set is not read yet"):
        build_dataset(distillation)


def test_a_golden_row_that_was_smuggled_in_is_named(published: Distillation) -> None:
    distillation = with_golden(published, GOLDEN)
    build_golden_set(distillation)
    build = build_dataset(distillation)
    train = build.folder / "train.parquet"
    rows = pl.read_parquet(train)
    pl.concat([rows, rows.with_columns(prompt_id=pl.lit("smuggled"), text=pl.lit(NEAR.lower()))]).write_parquet(train)

    with pytest.raises(DatasetError, match=r"holds 1 rows of the golden set.*smuggled \(golden "):
        require_no_golden_rows(distillation, build.version)
