"""From a prompt, or from a stored answer, to everything that has it."""

from collections.abc import Sequence
from typing import Any

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.lineage import (
    DatasetRows,
    DroppedRow,
    EvaluationFacts,
    PromptAnswer,
    PromptLineage,
    PromptVersion,
    ResponseLineage,
    StoredAnswer,
    Witness,
)
from distill_dagster.catalog.of_students import releases_of
from distill_dagster.errors import CatalogError
from distill_dagster.teachers.store.scan import keys_like, stored_answers

KEY_CHARS = 64
_HAVING = ("prompts_all", "golden_set_all", "teacher_outputs_all", "dataset_all", "dropped_all", "predictions_all")


def prompt_lineage(catalog: Catalog, prompt_id: str) -> list[PromptLineage]:
    """Everything that has a prompt, distillation by distillation.

    Raises:
        CatalogError: nothing has it.
    """
    places = " UNION ".join(f"SELECT distillation FROM {view} WHERE prompt_id = $1" for view in _HAVING)
    found = [row["distillation"] for row in catalog.rows(f"{places} ORDER BY distillation", prompt_id)]
    if not found:
        where = ", ".join(folder.name for folder in catalog.folders) or "any distillation"
        raise CatalogError(f"no prompt {prompt_id!r} is stored in {where}")
    return [_in_distillation(catalog, distillation, prompt_id) for distillation in found]


def response_lineage(catalog: Catalog, key: str) -> ResponseLineage:
    """A stored answer, and all that has its prompts.

    Args:
        key: a request key, or its beginning.

    Raises:
        CatalogError: there is none, or more than one.
    """
    outputs = catalog.rows(
        "SELECT DISTINCT request_key FROM teacher_outputs_all WHERE starts_with(request_key, ?) LIMIT 2", key
    )
    keys = sorted({*keys_like(catalog.store_url, key, 2), *(row["request_key"] for row in outputs)})
    if len(keys) != 1:
        said = f"more than one response begins with {key!r}; write more of it" if keys else f"no response {key!r}"
        raise CatalogError(f"{said} (a request key has {KEY_CHARS} characters)")
    answers = stored_answers(catalog.store_url, keys).to_dicts()
    prompts = catalog.rows(
        "SELECT DISTINCT distillation, prompt_id FROM teacher_outputs_all WHERE request_key = ? ORDER BY ALL", keys[0]
    )
    return ResponseLineage(
        request_key=keys[0],
        response=StoredAnswer(**answers[0]) if answers else None,
        prompts=[_in_distillation(catalog, row["distillation"], row["prompt_id"]) for row in prompts],
    )


def _in_distillation(catalog: Catalog, distillation: str, prompt_id: str) -> PromptLineage:
    def rows(columns: str, view: str, rest: str = "") -> list[dict[str, Any]]:
        query = f"SELECT {columns} FROM {view} WHERE distillation = ? AND prompt_id = ? {rest}"
        return catalog.rows(query, distillation, prompt_id)

    datasets = rows(
        "version, current, split, count(*) AS rows", "dataset_all", "GROUP BY ALL ORDER BY current DESC, version"
    )
    students = _witnesses(catalog, distillation, prompt_id)
    return PromptLineage(
        distillation=distillation,
        prompt_id=prompt_id,
        prompts=[
            PromptVersion(**row)
            for row in rows("partition, version, current, split", "prompts_all", "ORDER BY current DESC, version")
        ],
        golden_sets=[row["version"] for row in rows("DISTINCT version", "golden_set_all", "ORDER BY version")],
        answers=_answers(catalog, rows("DISTINCT sample, request_key, status, version", "teacher_outputs_all")),
        datasets=[DatasetRows(**row) for row in datasets],
        dropped=[
            DroppedRow(**row)
            for row in rows(
                "build_key, current, sample, reason, detail", "dropped_all", "ORDER BY current DESC, build_key, sample"
            )
        ],
        students=students,
        evaluations=_evaluations(catalog, distillation, prompt_id),
        releases=releases_of(catalog, distillation, [one.version for one in students]),
    )


def _answers(catalog: Catalog, rows: Sequence[dict[str, Any]]) -> list[PromptAnswer]:
    stored = {
        row["request_key"]: StoredAnswer(**row)
        for row in stored_answers(catalog.store_url, [row["request_key"] for row in rows]).to_dicts()
    }
    versions: dict[tuple[int, str, str], list[str]] = {}
    for row in rows:
        versions.setdefault((row["sample"], row["request_key"], row["status"]), []).append(row["version"])
    return [
        PromptAnswer(sample, key, status, sorted(found), stored.get(key))
        for (sample, key, status), found in sorted(versions.items())
    ]


def _witnesses(catalog: Catalog, distillation: str, prompt_id: str) -> list[Witness]:
    rows = catalog.rows(
        """
        SELECT student, s.version, s.current, min(d.split) AS saw FROM students_all s JOIN dataset_all d
            ON d.distillation = s.distillation AND d.version = s.dataset_version
        WHERE s.distillation = ? AND d.prompt_id = ?
        GROUP BY ALL ORDER BY student, s.current DESC, s.version
        """,
        distillation,
        prompt_id,
    )
    return [Witness(**row) for row in rows]


def _evaluations(catalog: Catalog, distillation: str, prompt_id: str) -> list[EvaluationFacts]:
    rows = catalog.rows(
        """
        SELECT student, version, current, student_version, dataset_version, folder || '/report.html' AS report
        FROM evaluations_all e SEMI JOIN (
            SELECT distillation, student, version FROM predictions_all WHERE distillation = ? AND prompt_id = ?
        ) USING (distillation, student, version)
        ORDER BY student, current DESC, version
        """,
        distillation,
        prompt_id,
    )
    return [EvaluationFacts(**row) for row in rows]
