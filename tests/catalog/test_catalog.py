"""The catalog: current and all versions of what is stored, and nothing else of the machine."""

from pathlib import Path

import pytest

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.errors import CatalogError, ProjectError
from distill_dagster.project import Project
from tests.catalog.world import EDITED, History

VIEWS = (
    *("prompts", "teacher_outputs", "dataset", "dropped", "golden_set", "logits", "predictions", "responses"),
    *("students", "evaluations", "datasets", "dataset_inputs", "releases", "response_facts"),
)


def test_views_show_what_is_current_and_all_of_it(history: History) -> None:
    with Catalog(history.project, ["faq"]) as catalog:
        [prompts] = catalog.rows("SELECT count(*) AS n, count(DISTINCT version) AS versions FROM prompts")
        [all_prompts] = catalog.rows("SELECT count(*) AS n, count(DISTINCT version) AS versions FROM prompts_all")
        datasets = catalog.rows("SELECT DISTINCT version, current FROM dataset_all")
        texts = catalog.rows("SELECT text, current FROM prompts_all WHERE prompt_id = ? ORDER BY current", EDITED)
        splits = catalog.rows("SELECT split, count(*) AS n FROM dataset GROUP BY split")

    assert (prompts, all_prompts) == ({"n": 24, "versions": 2}, {"n": 36, "versions": 3})
    assert {(one["version"], one["current"]) for one in datasets} == {
        (build.version, build is history.datasets[2]) for build in history.datasets
    }
    assert texts == [{"text": "birds question 3", "current": False}, {"text": "an edited question", "current": True}]
    assert {one["split"]: one["n"] for one in splits} == dict(history.datasets[2].split_counts)


def test_rows_join_from_prompt_to_response(history: History) -> None:
    with Catalog(history.project, ["faq"]) as catalog:
        joined = catalog.rows(
            "SELECT p.prompt_id, o.completion = r.text AS same, r.model, r.cost_microusd > 0 AS paid FROM prompts p "
            "JOIN teacher_outputs o USING (distillation, partition, prompt_id) JOIN responses r USING (request_key)"
        )

    assert len(joined) == 24
    assert {(one["same"], one["model"], one["paid"]) for one in joined} == {(True, "claude-sonnet-5-5", True)}


def test_the_store_is_read_in_pages(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_dagster.teachers.store.scan.BATCH_ROWS", 5)

    with Catalog(history.project) as catalog:
        keys = catalog.rows("SELECT request_key, model FROM response_facts")

    assert len({one["request_key"] for one in keys}) == len(keys)
    assert [sum(name in one["model"] for one in keys) for name in ("haiku", "sonnet")] == [24, 23]


def test_several_distillations_stand_in_one_catalog(history: History) -> None:
    with Catalog(history.project) as catalog, Catalog(history.project, ["other"]) as narrowed:
        both = catalog.rows("SELECT distillation, count(*) AS n FROM prompts GROUP BY ALL ORDER BY ALL")
        one = narrowed.rows("SELECT distillation, count(*) AS n FROM prompts GROUP BY ALL ORDER BY ALL")

    assert both == [{"distillation": "faq", "n": 24}, {"distillation": "other", "n": 24}]
    assert one == both[1:]
    with pytest.raises(ProjectError, match=r"nothing is stored of nope .*\(stored: faq, other\)"):
        Catalog(history.project, ["nope"])


def test_an_empty_project_has_the_same_views_and_no_store_is_made(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path / ".distill")

    with Catalog(project) as catalog:
        counts = {view: catalog.rows(f"SELECT count(*) AS n FROM {view}") for view in VIEWS}
        assert catalog.rows("SELECT text, completion FROM dataset_all") == []

    assert counts == {view: [{"n": 0}] for view in VIEWS}
    assert not project.home.exists()


def test_a_query_reads_nothing_else_and_writes_nothing(history: History, tmp_path: Path) -> None:
    outside = tmp_path / "secret.csv"
    outside.write_text("secret\n1\n", encoding="utf-8")
    inside = next((history.project.home / "faq" / "prompts").rglob("*.parquet"))
    before = inside.read_bytes()

    with Catalog(history.project) as catalog:
        for query in (
            f"SELECT * FROM read_text('{outside}')",
            f"SELECT * FROM read_csv('{outside}')",
            f"SELECT * FROM '{outside}'",
            f"SELECT * FROM glob('{tmp_path}/*')",
            f"SELECT * FROM read_text('{history.project.home}/faq/../../assets/faq/defs.yaml')",
            f"SELECT * FROM read_text('{history.project.home}/responses.sqlite')",
            f"COPY (SELECT 1) TO '{inside}' (USE_TMP_FILE false)",
            f"ATTACH '{outside}' AS other",
            "SET enable_external_access = true",
            "CREATE TABLE mine AS SELECT 1",
            "DROP VIEW prompts",
            "INSTALL sqlite",
            "SELECT 1; SELECT 2",
            "SELECT 1) AS x; SELECT * FROM (SELECT 1",
            "outside",
            "",
        ):
            with pytest.raises(CatalogError):
                catalog.rows(query)

    assert inside.read_bytes() == before
