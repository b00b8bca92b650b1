"""From a student or a teacher's model to what it comes from, or what came of it."""

from typing import Any

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.lineage import (
    AnsweredBy,
    DatasetFacts,
    EvaluationFacts,
    Learner,
    PartitionInputs,
    ReleaseFacts,
    StudentLineage,
    TeacherImpact,
)
from distill_dagster.errors import CatalogError
from distill_dagster.lineage.tombstones import StudentVersion, stale_students

CURRENT = "current"
SHORT = 8


def student_lineage(catalog: Catalog, reference: str) -> StudentLineage:
    """Follows a student's manifests to its dataset, answers and prompts, and to its evaluations and releases.

    Args:
        reference: `student`, `student@current` or `student@version`; a version may be cut short.

    Raises:
        CatalogError: there is no such student, or more than one.
    """
    found = _find(catalog, reference)
    distillation, student, version = found["distillation"], found["student"], found["version"]
    dataset = found["dataset_version"]
    return StudentLineage(
        distillation=distillation,
        student=student,
        version=version,
        current=found["current"],
        stale=StudentVersion(distillation, student, version) in stale_students(catalog.home),
        objective=found["objective"],
        targets=found["targets"],
        teacher=found["teacher"],
        authorization=found["authorization"],
        base_version=found["base_version"],
        dataset=_dataset(catalog, distillation, dataset) if dataset else None,
        teachers=_teachers(catalog, distillation, dataset) if dataset else [],
        evaluations=evaluations_of(catalog, distillation, "student_version", version),
        releases=releases_of(catalog, distillation, [version]),
    )


def teacher_impact(catalog: Catalog, model: str) -> TeacherImpact:
    """All students that learned from a teacher's model.

    Args:
        model: as the provider or the declaration calls it, `provider/model`, or a local teacher's digest.

    Raises:
        CatalogError: neither the store nor any student knows it.
    """
    own = "model = $1 OR provider || '/' || model = $1"
    [answers] = catalog.rows(f"SELECT count(*) AS answers FROM response_facts WHERE {own}", model)
    rows = catalog.rows(
        f"""
        WITH keys AS (SELECT request_key, true AS own FROM response_facts WHERE {own}),
        learned AS (
            SELECT distillation, version, count(*) AS rows, count(own) AS answers
            FROM dataset_all LEFT JOIN keys USING (request_key)
            WHERE split IN ('train', 'validation') GROUP BY ALL
        )
        SELECT s.*, coalesce(rows, 0) AS rows, coalesce(answers, 0) AS answers,
            (s.distillation, s.version) IN (SELECT (distillation, version) FROM releases) AS released
        FROM students_all s LEFT JOIN learned l
            ON l.distillation = s.distillation AND l.version = s.dataset_version
        WHERE answers > 0 OR teacher = $1
        ORDER BY s.distillation, student, s.current DESC, s.version
        """,
        model,
    )
    if not rows and not answers["answers"]:
        raise CatalogError(f"no stored answer and no student is of a teacher {model!r} (known: {_models(catalog)})")
    return TeacherImpact(model, answers["answers"], [_learner(row, model) for row in rows])


def evaluations_of(catalog: Catalog, distillation: str, column: str, value: str) -> list[EvaluationFacts]:
    """The stored evaluations with a value in a column of `evaluations`."""
    names = ", ".join(EvaluationFacts.__dataclass_fields__).replace("report", "folder || '/report.html' AS report")
    rows = catalog.rows(
        f"SELECT {names} FROM evaluations_all WHERE distillation = ? AND {column} = ? ORDER BY current DESC, version",
        distillation,
        value,
    )
    return [EvaluationFacts(**row) for row in rows]


def releases_of(catalog: Catalog, distillation: str, versions: list[str]) -> list[ReleaseFacts]:
    """What is released of some student versions."""
    rows = catalog.rows(
        "SELECT student, version, evaluation_version FROM releases WHERE distillation = ? AND version IN "
        "(SELECT unnest(?::VARCHAR[])) ORDER BY student",
        distillation,
        versions,
    )
    return [ReleaseFacts(**row) for row in rows]


def _find(catalog: Catalog, reference: str) -> dict[str, Any]:
    student, _, version = reference.partition("@")
    stored = catalog.rows("SELECT * FROM students_all ORDER BY distillation, student, current DESC, version")
    own = [row for row in stored if row["student"] == student]
    if version in ("", CURRENT):
        found = [row for row in own if row["current"]]
    else:
        found = [row for row in own if row["version"].startswith(version)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CatalogError(f"no student {reference!r} is stored (stored: {_told(own or stored)})")
    if len({row["distillation"] for row in found}) > 1:
        raise CatalogError(
            f"more than one distillation has a student {reference!r}; name one: "
            f"`distill lineage {found[0]['distillation']} --student {reference}`"
        )
    raise CatalogError(f"more than one student is called {reference!r}; write more of {_told(found)}")


def _told(rows: list[dict[str, Any]]) -> str:
    named = (f"{row['distillation']}: {row['student']}@{str(row['version'])[:SHORT]}" for row in rows)
    return ", ".join(named) or "none"


def _dataset(catalog: Catalog, distillation: str, version: str) -> DatasetFacts:
    where = "WHERE distillation = ? AND version = ?"
    inputs = catalog.rows(f"SELECT * FROM dataset_inputs_all {where} ORDER BY partition", distillation, version)
    counts = catalog.rows(
        f"SELECT split, count(*) AS rows FROM dataset_all {where} GROUP BY split", distillation, version
    )
    versions = {(row["asset"], row["partition"]): row["input_version"] for row in inputs}
    partitions = [
        PartitionInputs(partition, prompts, versions.get(("teacher_outputs", partition)))
        for (asset, partition), prompts in versions.items()
        if asset == "prompts"
    ]
    return DatasetFacts(
        version=version,
        stored=bool(inputs),
        current=any(row["current"] for row in inputs),
        rows={row["split"]: row["rows"] for row in counts},
        golden_set=versions.get(("golden_set", None)),
        partitions=partitions,
    )


def _teachers(catalog: Catalog, distillation: str, dataset: str) -> list[AnsweredBy]:
    rows = catalog.rows(
        """
        SELECT provider, model, identity, count(*) AS answers, sum(cost_microusd)::BIGINT AS cost_microusd,
            min(created_at) AS first_at, max(created_at) AS last_at
        FROM response_facts SEMI JOIN (
            SELECT request_key FROM dataset_all
            WHERE distillation = ? AND version = ? AND split IN ('train', 'validation')
        ) USING (request_key)
        GROUP BY ALL ORDER BY answers DESC, identity
        """,
        distillation,
        dataset,
    )
    return [AnsweredBy(**row) for row in rows]


def _learner(row: dict[str, Any], model: str) -> Learner:
    # A local teacher's answers are filed under its weights' digest, not under the name that was declared.
    answers = row["answers"] or (row["rows"] if row["teacher"] == model else 0)
    names = [name for name in Learner.__dataclass_fields__ if name != "answers"]
    own = {name: row[name] for name in names}
    return Learner(**own, answers=0 if row["targets"] == "reference" else answers)


def _models(catalog: Catalog) -> str:
    rows = catalog.rows(
        "SELECT DISTINCT teacher AS model FROM students_all WHERE teacher IS NOT NULL UNION "
        "SELECT DISTINCT model FROM response_facts WHERE provider <> 'transformers' ORDER BY model"
    )
    return ", ".join(row["model"] for row in rows) or "none"
