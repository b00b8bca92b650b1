"""Checks on `teacher_outputs`: whether the answers are usable, and whether their use is permitted. They only warn."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import dagster as dg

from distill_dagster.graph.finding import SCHEMA, Check, Finding, partition_files, schema_finding, table
from distill_dagster.graph.keys import asset_key
from distill_dagster.project import Distillation
from distill_dagster.teachers.answers.validity import INVALID_JSON, INVALID_LABEL
from distill_dagster.teachers.outputs import ASSET, OUTPUTS_SCHEMA, outputs_summary
from distill_dagster.teachers.protocol import ResponseStatus

USABLE, AUTHORISED = "answers_usable", "authorization_stated"
# What each threshold of `teacher.thresholds` counts.
COUNTED = {
    "refused": (ResponseStatus.REFUSED.value,),
    "truncated": (ResponseStatus.TRUNCATED.value,),
    "error": (ResponseStatus.ERROR.value,),
    "invalid": (INVALID_LABEL, INVALID_JSON),
}


def output_checks(distillation: Distillation) -> list[Check]:
    """The checks on a distillation's answers."""
    key = asset_key(distillation.name, ASSET)
    checks = [
        Check(
            key,
            SCHEMA,
            "Stored answers have the declared columns.",
            lambda: schema_finding(partition_files(distillation, ASSET), OUTPUTS_SCHEMA),
        ),
        Check(key, USABLE, _first_line(answers_usable), partial(answers_usable, distillation)),
    ]
    if not distillation.spec.teacher.is_local:
        stated = partial(authorization_stated, distillation)
        checks.append(Check(key, AUTHORISED, _first_line(authorization_stated), stated))
    return checks


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
        "shares": table(
            [{"ending": kind, "share": f"{shares[kind]:.2%}", "at most": f"{limits[kind]:.2%}"} for kind in COUNTED]
        ),
        "endings": table([{"ending": name, "answers": f"{count:,}"} for name, count in _endings(counts)]),
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


def _first_line(function: Callable[..., Finding]) -> str:
    return (function.__doc__ or "").split("\n")[0]


def _endings(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """How the answers ended, refusals by category too."""
    named = [*map(str, ResponseStatus), INVALID_LABEL, INVALID_JSON]
    shown = [name for name in counts if name in named or name.startswith("refused: ")]
    return [(name, counts[name]) for name in sorted(shown)]
