"""What Dagster shows of each of the eight kinds of asset before anything is made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_dagster.dataset.build import DATASET_SCHEMA
from distill_dagster.errors import SpecError
from distill_dagster.golden.build import GOLDEN_SCHEMA
from distill_dagster.graph.columns import COLUMNS, column_lineage, column_schema
from distill_dagster.graph.definitions import build_definitions
from distill_dagster.graph.keys import asset_key
from distill_dagster.lineage.manifests import spec_hash
from distill_dagster.logits.index import INDEX_SCHEMA
from distill_dagster.prompts.store import PROMPTS_SCHEMA
from distill_dagster.teachers.outputs import OUTPUTS_SCHEMA
from tests.graph.hosted import Declare

ALL_KINDS = """
description: Answers questions about animals.
owners: ["team:animals", keeper@example.com]
prompts:
  source: {python: corpus.rows}
  prompt: "{{ question }}"
  partition: {by: topic}
golden_set: {jsonl: golden.jsonl}
teacher: {provider: transformers, model: "owner/tiny model"}
students:
  plain: {base: {prune: teacher, layers: 2}}
  close:
    base: tiny
    objective: logit
evaluation:
  metrics: [rouge_l]
  gate: {metric: rouge_l, max_degradation: 0.05}
"""
SCHEMAS: Mapping[str, Mapping[str, object]] = {
    "prompts": PROMPTS_SCHEMA,
    "teacher_outputs": OUTPUTS_SCHEMA,
    "teacher_logits": INDEX_SCHEMA,
    "dataset": DATASET_SCHEMA,
    "golden_set": GOLDEN_SCHEMA,
}
STAGES = {*SCHEMAS, "student", "evaluation", "release"}


@pytest.fixture
def specs(declare: Declare) -> dict[str, dg.AssetSpec]:
    """By key without the distillation."""
    definitions = build_definitions(declare(ALL_KINDS))
    return {"/".join(spec.key.path[1:]): spec for spec in definitions.resolve_all_asset_specs()}


def references(spec: dg.AssetSpec) -> Sequence[dg.LocalFileCodeReference]:
    value: Any = spec.metadata["dagster/code_references"]
    return list(value.code_references)


def test_every_kind_has_a_face(specs: dict[str, dg.AssetSpec], declare: Declare) -> None:
    assert {key.partition("/")[0] for key in specs} == STAGES
    for key, spec in specs.items():
        assert (spec.group_name, list(spec.owners)) == ("demo", ["team:animals", "keeper@example.com"]), key
        assert len(str(spec.description)) > 60, key
        assert 2 <= len(spec.kinds) <= 3, key
        assert spec.tags["distill/stage"] == key.partition("/")[0]
        assert str(spec.metadata["dagster/uri"]).startswith("file:///"), key
    assert specs["prompts"].tags["distill/teacher"] == "owner_tiny_model"
    assert specs["student/close"].tags["distill/objective"] == "logit"


def test_students_evaluations_and_releases_of_one_name_are_told_apart_by_their_kinds(
    specs: dict[str, dg.AssetSpec],
) -> None:
    assert {stage: stage in specs[f"{stage}/plain"].kinds for stage in ("student", "evaluation", "release")} == {
        "student": True,
        "evaluation": True,
        "release": True,
    }


def test_each_refers_to_its_lines(specs: dict[str, dg.AssetSpec], declare: Declare) -> None:
    folder = declare(ALL_KINDS).folder
    lines = (folder / "defs.yaml").read_text(encoding="utf-8").splitlines()
    starts = {
        "prompts": "prompts:",
        "golden_set": "golden_set:",
        "teacher_outputs": "teacher:",
        "teacher_logits": "teacher:",
        "student/plain": "plain:",
        "student/close": "close:",
        "evaluation/plain": "evaluation:",
        "release/plain": "gate:",
    }
    for key, start in starts.items():
        first = references(specs[key])[0]
        assert first.file_path == str(folder / "defs.yaml")
        assert lines[(first.line_number or 0) - 1].strip().startswith(start), key
    assert [Path(one.file_path).name for one in references(specs["prompts"])] == ["defs.yaml", "corpus.py"]


@pytest.mark.parametrize("asset", SCHEMAS)
def test_every_column_is_described(specs: dict[str, dg.AssetSpec], asset: str) -> None:
    assert COLUMNS[asset].keys() == SCHEMAS[asset].keys()
    schema = column_schema(asset, SCHEMAS[asset])
    assert specs[asset].metadata["dagster/column_schema"] == schema
    assert all(column.description for column in schema.columns)


@pytest.mark.parametrize("asset", SCHEMAS)
def test_column_lineage_leads_to_columns_that_exist(specs: dict[str, dg.AssetSpec], asset: str) -> None:
    metadata = column_lineage("demo", asset)
    upstream = {"prompts", "teacher_outputs"} - {asset}
    for value in metadata.values():
        assert isinstance(value, dg.TableColumnLineageMetadataValue)
        for column, sources in value.column_lineage.deps_by_column.items():
            assert column in SCHEMAS[asset]
            for source in sources:
                name = source.asset_key.path[-1]
                assert source.asset_key == asset_key("demo", name)
                assert name in upstream
                assert source.column_name in SCHEMAS[name]
    assert bool(metadata) == (asset not in ("prompts", "golden_set"))


def test_a_query_is_not_shown(declare: Declare) -> None:
    written = ALL_KINDS.replace("{python: corpus.rows}", "{sql: \"select * from scan('password=secret')\"}")

    definitions = build_definitions(declare(written))

    assert not any("secret" in str(spec.description) for spec in definitions.resolve_all_asset_specs())


def test_owners_are_those_that_dagster_takes(declare: Declare) -> None:
    with pytest.raises(SpecError, match=r"defs\.yaml:4: owners"):
        declare(ALL_KINDS.replace('"team:animals"', "animals"))


def test_owners_are_no_part_of_the_declaration_s_hash(declare: Declare) -> None:
    owned = declare(ALL_KINDS).spec
    other = declare(ALL_KINDS.replace("keeper@", "other.keeper@")).spec

    assert spec_hash(owned) == spec_hash(other)
