"""Checks on `teacher_outputs`: whether the answers are usable, and whether their use is permitted. They only warn.

Dagster would skip a check in the same run as the partitioned assets, which yield nothing. So their step logs the
evaluations itself, and the checks stand alone beside it for whoever runs one by itself.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg

from distill_dagster.graph.keys import asset_key
from distill_dagster.project import Distillation
from distill_dagster.teachers.answers.validity import INVALID_JSON, INVALID_LABEL
from distill_dagster.teachers.outputs import ASSET, outputs_summary
from distill_dagster.teachers.protocol import ResponseStatus

USABLE, AUTHORISED = "answers_usable", "authorization_stated"
# What each threshold of `teacher.thresholds` counts.
COUNTED = {
    "refused": (ResponseStatus.REFUSED.value,),
    "truncated": (ResponseStatus.TRUNCATED.value,),
    "error": (ResponseStatus.ERROR.value,),
    "invalid": (INVALID_LABEL, INVALID_JSON),
}


@dataclass(frozen=True)
class Finding:
    """What a check came to."""

    passed: bool
    description: str
    metadata: Mapping[str, dg.MetadataValue] = field(default_factory=dict)


def output_checks(distillation: Distillation) -> list[dg.AssetChecksDefinition]:
    """The checks as definitions, to be run alone."""
    return [_definition(distillation, name, find) for name, find in _checks(distillation).items()]


def check_evaluations(distillation: Distillation) -> list[dg.AssetCheckEvaluation]:
    """The same checks, evaluated now, for a step to log."""
    key = asset_key(distillation.name, ASSET)
    found = {name: find(distillation) for name, find in _checks(distillation).items()}
    return [
        dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.description,
            metadata=dict(finding.metadata),
        )
        for name, finding in found.items()
    ]


def answers_usable(distillation: Distillation) -> Finding:
    """Compares the shares of bad endings among all current answers with `teacher.thresholds`."""
    partitions = distillation.files.partitions(ASSET)
    counts: Counter[str] = Counter()
    for partition in partitions:
        counts.update(outputs_summary(distillation, partition))
    answers = counts["rows"]
    if not answers:
        return Finding(True, "no answers yet")
    limits = distillation.spec.teacher.thresholds.model_dump()
    shares = {kind: sum(counts[name] for name in names) / answers for kind, names in COUNTED.items()}
    over = [
        f"{kind} {shares[kind]:.1%} (at most {limits[kind]:.1%})" for kind in COUNTED if shares[kind] > limits[kind]
    ]
    told = ", ".join(over) if over else "every share within its threshold"
    metadata: dict[str, dg.MetadataValue] = {
        "answers": dg.MetadataValue.int(answers),
        "partitions": dg.MetadataValue.int(len(partitions)),
        "shares": _table(
            [{"ending": kind, "share": f"{shares[kind]:.2%}", "at most": f"{limits[kind]:.2%}"} for kind in COUNTED]
        ),
        "endings": _table([{"ending": name, "answers": f"{count:,}"} for name, count in _endings(counts)]),
    }
    metadata |= {f"{kind} share": dg.MetadataValue.float(share) for kind, share in shares.items()}  # plotted over time
    return Finding(not over, f"{answers:,} answers: {told}", metadata)


def authorization_stated(distillation: Distillation) -> Finding:
    """Whether the declaration says how the provider permits training on its answers."""
    teacher = distillation.spec.teacher
    if teacher.authorization and teacher.authorization.strip():
        return Finding(True, teacher.authorization)
    return Finding(
        False,
        f"Write under `teacher:` of {distillation.name} how {teacher.provider} permits training on its answers, e.g. "
        "`authorization: agreement of 2026-03-01, section 4`. Dataset, student and model card record it.",
    )


def _checks(distillation: Distillation) -> dict[str, Callable[[Distillation], Finding]]:
    checks: dict[str, Callable[[Distillation], Finding]] = {USABLE: answers_usable}
    if not distillation.spec.teacher.is_local:
        checks[AUTHORISED] = authorization_stated
    return checks


def _definition(
    distillation: Distillation, name: str, find: Callable[[Distillation], Finding]
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(distillation.name, ASSET), name=name, description=(find.__doc__ or "").split("\n")[0]
    )
    def check() -> dg.AssetCheckResult:
        finding = find(distillation)
        return dg.AssetCheckResult(
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=finding.description,
            metadata=dict(finding.metadata),
        )

    return check


def _endings(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """How the answers ended, refusals by category too."""
    named = [*map(str, ResponseStatus), INVALID_LABEL, INVALID_JSON]
    shown = [name for name in counts if name in named or name.startswith("refused: ")]
    return [(name, counts[name]) for name in sorted(shown)]


def _table(rows: list[dict[str, str]]) -> dg.MetadataValue:
    columns = [dg.TableColumn(name) for name in rows[0]]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], dg.TableSchema(columns))
