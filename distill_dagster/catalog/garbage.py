"""Finds what may go: versions that nothing refers to any more, and what killed processes left lying about.

Kept are the versions that readers see, that a release or a build record names, and all that the manifests of kept
versions lead to. Responses are no part of this.
"""

import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_dagster.catalog.stored import Kind, StoredVersion, size_of, stored_versions
from distill_dagster.lineage.manifests import MANIFEST_FILE, read_manifest
from distill_dagster.storage import DistillationFolder, read_current, read_json

COLLECTED = (
    *(Kind.EVALUATIONS, Kind.PREDICTIONS, Kind.HARNESS, Kind.STUDENTS, Kind.BASES, Kind.DATASET),
    *(Kind.TEACHER_LOGITS, Kind.TEACHER_OUTPUTS, Kind.PROMPTS, Kind.GOLDEN_SET),
)
"""Those that refer come before what they refer to, so that a kill leaves no manifest that leads nowhere."""
DROPPED = "dropped"
LEFTOVER = "leftover"
QUIET_S = 3600.0
_STUDENT_MODEL = "student "


@dataclass(frozen=True)
class Garbage:
    """Something that nobody refers to.

    Attributes:
        kind: a `Kind`, `dropped` (the rows that a forgotten build left out) or `leftover` (of a killed process).
        name: the partition or the student, where there is one.
        version: for `dropped` the build key; None for a leftover.
    """

    kind: str
    name: str | None
    version: str | None
    paths: tuple[Path, ...]
    bytes: int


def find_garbage(folder: DistillationFolder, now: float | None = None) -> list[Garbage]:
    """What may go of a distillation, in the order in which it has to.

    Args:
        now: the time that leftovers and outcomes of the harness are older than; those of the last hour may still be
            written to, or be named by an evaluation that is under way.

    Raises:
        StorageError: a manifest, a release or a build record cannot be read; then nothing is known to be free.
    """
    now = time.time() if now is None else now
    stored = list(stored_versions(folder, COLLECTED))
    kept = _kept(folder, stored) | {one for one in stored if one.kind is Kind.HARNESS and not _is_quiet(one.path, now)}
    free = [
        Garbage(one.kind.value, one.name, one.version, tuple(one.paths), one.bytes) for one in stored if one not in kept
    ]
    return [*free, *_dropped(folder), *_leftovers(folder, now)]


def remove_garbage(garbage: Iterable[Garbage]) -> None:
    """Removes it; a kill in between leaves only what the next search finds again."""
    for one in garbage:
        for path in one.paths:
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            path.rename(aside)  # at once out of everybody's sight
            if aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink()


def _kept(folder: DistillationFolder, stored: list[StoredVersion]) -> set[StoredVersion]:
    """The versions that are referred to, directly or through manifests."""
    named = _named_by_releases(folder) | _built(folder) | _looked_at(folder)
    reached = [one for one in stored if one.current or one.version in named]
    kept: set[StoredVersion] = set()
    while reached:
        one = reached.pop()
        if one not in kept:
            kept.add(one)
            inputs = _inputs(one)
            reached += [other for other in stored if other not in kept and _is_input(other, inputs)]
    return kept | {one for one in stored if one.kind is Kind.PREDICTIONS and _is_of_kept(one, kept)}


def _inputs(one: StoredVersion) -> set[tuple[str, str]]:
    """What a version's manifest names, as (name, version)."""
    if not (one.path / MANIFEST_FILE).is_file():
        return set()
    manifest = read_manifest(one.path)
    inputs = set(manifest["inputs"].items())
    base = manifest["details"].get("base_version")
    return inputs | ({("base", base)} if base else set())


def _is_input(one: StoredVersion, inputs: set[tuple[str, str]]) -> bool:
    match one.kind:
        case Kind.PROMPTS | Kind.TEACHER_OUTPUTS:
            return (f"{one.kind}/{one.name}", one.version) in inputs
        case Kind.STUDENTS:
            return ("student", one.version) in inputs or (f"student/{one.name}", one.version) in inputs
        case Kind.DATASET | Kind.GOLDEN_SET:
            return (one.kind.value, one.version) in inputs
        case Kind.BASES:
            return ("base", one.version) in inputs
        case Kind.HARNESS:
            return any(name.startswith(f"{one.kind}/") and key == one.version for name, key in inputs)
        case _:
            return False


def _is_of_kept(one: StoredVersion, kept: set[StoredVersion]) -> bool:
    """Whether a prediction is not one of a student that goes; what other models answered stays."""
    manifest = read_manifest(one.path)
    if not str(manifest["details"].get("model", "")).startswith(_STUDENT_MODEL):
        return True
    return any(other.kind is Kind.STUDENTS and other.version == manifest["inputs"].get("model") for other in kept)


def _named_by_releases(folder: DistillationFolder) -> set[str]:
    """Every text in a release's file; one that is a version names it."""
    files = folder.asset("releases").glob("[!.]*.json")
    return {text for file in files for text in _texts(read_json(file))}


def _built(folder: DistillationFolder) -> set[str]:
    return {str(read_json(path)["version"]) for path in (folder.home / "builds").glob("[!.]*.json")}


def _looked_at(folder: DistillationFolder) -> set[str]:
    """Golden sets that a gate has looked at: whether a later one overlaps with them has to stay known."""
    looks = (folder.asset(Kind.GOLDEN_SET) / "looks").glob("[!.]*.json")
    return {str(read_json(path)["golden_version"]) for path in looks}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _dropped(folder: DistillationFolder) -> Iterator[Garbage]:
    """Rows that builds left out which are known no more."""
    root = folder.asset(Kind.DATASET)
    current = read_current(root)
    for path in sorted((root / DROPPED).glob("[!.]*.parquet")):
        is_current = current is not None and current.build_key == path.stem
        if not is_current and not (folder.home / "builds" / f"{path.stem}.json").exists():
            yield Garbage(DROPPED, None, path.stem, (path,), size_of(path))


def _leftovers(folder: DistillationFolder, now: float) -> Iterator[Garbage]:
    """Hidden files and folders that were being written when their process died, and have been quiet since."""
    homes = [*folder.home.glob(".batch-*"), *(folder.home / "builds").glob(".*.tmp")]
    own = (path for kind in (*Kind, "releases") for path in folder.asset(kind).rglob(".*.tmp"))
    for path in sorted({*homes, *own}):
        inside_another = any(parent.name.startswith(".") and parent.suffix == ".tmp" for parent in path.parents)
        if not inside_another and _is_quiet(path, now):
            yield Garbage(LEFTOVER, None, None, (path,), size_of(path))


def _is_quiet(path: Path, now: float) -> bool:
    """Whether nothing of it was written in the last hour."""
    newest = max((part.lstat().st_mtime for part in (path, *path.rglob("*"))), default=now)
    return now - newest > QUIET_S
