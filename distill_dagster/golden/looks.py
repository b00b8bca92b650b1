"""The ledger of looks at a golden set: whoever looks again, at another student or under another rule, has less alpha.

One small file a look under `golden_set/looks/`; nothing ever removes them. The same look asked for again keeps its
number, so that an evaluation made again says the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import StorageError
from distill_dagster.golden.build import ASSET, read_golden_set
from distill_dagster.lineage.hashing import digest
from distill_dagster.project import Distillation
from distill_dagster.storage import read_json, write_json

_KEY_CHARS = 32


@dataclass(frozen=True)
class Look:
    """One look.

    Attributes:
        number: from 1, among the looks of one student's name at golden rows that overlap with these.
        student: its name.
        student_version, golden_version: what was looked at.
        rule: what else decides the verdict, as plain JSON values: the gate, how answers are made and scored.
    """

    number: int
    student: str
    student_version: str
    golden_version: str
    rule: Mapping[str, Any]


def take_look(
    distillation: Distillation, student: str, student_version: str, golden_version: str, rule: Mapping[str, Any]
) -> Look:
    """Counts a look, durably, before anything is seen. Callers hold the distillation's lease on looks.

    Raises:
        StorageError: an entry of the ledger cannot be read.
    """
    content = {
        "student": student,
        "student_version": student_version,
        "golden_version": golden_version,
        "rule": dict(rule),
    }
    path = _folder(distillation) / f"{digest(content)[:_KEY_CHARS]}.json"
    if not path.exists():
        before = [look for look in _at(distillation, golden_version) if look.student == student]
        write_json(path, content | {"number": len(before) + 1})
    return _read(path)


def looked_at(distillation: Distillation, golden_version: str) -> set[str]:
    """Names of the students for whom a look at any of these golden rows was ever taken, declared still or not.

    Raises:
        StorageError: an entry of the ledger cannot be read.
    """
    return {look.student for look in _at(distillation, golden_version)}


def _at(distillation: Distillation, golden_version: str) -> list[Look]:
    """The looks at golden rows that overlap with these."""
    known = _known(_folder(distillation))
    return [look for look in known if _overlap(distillation, look.golden_version, golden_version)]


def _folder(distillation: Distillation) -> Path:
    return distillation.files.asset(ASSET) / "looks"


def _known(folder: Path) -> list[Look]:
    return [_read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []


def _read(path: Path) -> Look:
    return Look(**read_json(path))


def _overlap(distillation: Distillation, earlier: str, now: str) -> bool:
    """Whether two golden sets share a row; one that is gone counts as the same."""
    if earlier == now:
        return True
    try:
        rows = read_golden_set(distillation, earlier)
    except StorageError:
        return True
    known: pl.DataFrame = read_golden_set(distillation, now)
    return not rows.join(known, on="prompt_id", how="semi").is_empty()
