"""What differs between two evaluations besides their numbers: inputs, declaration, how the student was trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from distill_dagster.evaluation.across.model import Change
from distill_dagster.evaluation.across.stored import StoredEvaluation
from distill_dagster.evaluation.across.stored_report import TABLES


def changes(a: StoredEvaluation, b: StoredEvaluation) -> list[Change]:
    """Every fact that differs, in the order of `_facts`; keys inside blocks are joined by dots."""
    left, right = _facts(a), _facts(b)
    return [change for name in left for change in _differing(name, left[name], right[name])]


def _differing(name: str, a: Any, b: Any) -> Iterator[Change]:
    left, right = dict(_flat({name: a})), dict(_flat({name: b}))
    for what in dict.fromkeys([*left, *right]):
        if left.get(what) != right.get(what):
            yield Change(what=what, a=left.get(what), b=right.get(what))


def _facts(one: StoredEvaluation) -> Mapping[str, Any]:
    report = one.report
    training = report.training
    return {
        "student": one.student,
        "versions": {
            "dataset": report.identity.versions.dataset,
            "student": report.identity.versions.student,
            "base": one.base,
            "teacher": report.identity.versions.teacher,
        },
        "models": {name: model for name, model in report.identity.models.items() if name != "student"},
        "rows": report.counts.rows_per_split,
        "declared": training.settings,
        "trained": training.model_dump(exclude={"settings"}),
        "decoding": report.identity.decoding,
        "evaluation": {
            "metrics": sorted({name for table in TABLES[:2] for name in report.measures(table)}),
            "primary_metric": report.primary_metric,
            "gate": report.gate and report.gate.model_dump(),
            "confidence": report.confidence,
            "judge": sorted({f"{one.judge}: {one.rubric}" for one in report.judge}),
            "harness": report.harness and report.harness.harness,
        },
        "spec_hash": report.identity.spec_hash,
        "code_version": one.code_version,
    }


def _flat(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
