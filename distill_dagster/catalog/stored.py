"""What is stored under `DISTILL_HOME`: every version of every artifact, and which of them readers see."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from distill_dagster.errors import ProjectError
from distill_dagster.lineage.manifests import MANIFEST_FILE
from distill_dagster.storage import DistillationFolder, decode_partition, read_current


class Kind(StrEnum):
    """The kinds of artifact, as their folders are called."""

    PROMPTS = "prompts"
    TEACHER_OUTPUTS = "teacher_outputs"
    TEACHER_LOGITS = "teacher_logits"
    GOLDEN_SET = "golden_set"
    DATASET = "dataset"
    STUDENTS = "students"
    BASES = "bases"
    PREDICTIONS = "predictions"
    HARNESS = "harness"
    EVALUATIONS = "evaluations"
    VARIANTS = "variants"


PARTITIONED = (Kind.PROMPTS, Kind.TEACHER_OUTPUTS, Kind.TEACHER_LOGITS)
_BY_STUDENT = (Kind.STUDENTS, Kind.EVALUATIONS)


@dataclass(frozen=True)
class StoredVersion:
    """One version of one artifact.

    Attributes:
        name: the partition or the student; None where there is one artifact of the kind.
        version: for predictions and outcomes of the harness, their key.
        path: its Parquet file, or its folder.
        current: whether readers see this one.
    """

    distillation: str
    kind: Kind
    name: str | None
    version: str
    path: Path
    current: bool

    @property
    def paths(self) -> list[Path]:
        """All that belongs to it on disk."""
        lines = self.path.with_suffix(".jsonl")
        return [self.path, *([lines] if self.kind is Kind.TEACHER_OUTPUTS and lines.exists() else [])]

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return sum(size_of(path) for path in self.paths)


def stored_distillations(home: Path, only: Iterable[str] | None = None) -> list[DistillationFolder]:
    """The distillations that have artifacts, sorted by name, whether or not they are still declared.

    Raises:
        ProjectError: one of `only` has none.
    """
    found = {
        path.name: DistillationFolder(home, path.name)
        for path in sorted(home.glob("*"))
        if any((path / kind).is_dir() for kind in Kind)
    }
    strangers = sorted(set(only or ()).difference(found))
    if strangers:
        known = ", ".join(found) or "none"
        raise ProjectError(f"nothing is stored of {', '.join(strangers)} in {home} (stored: {known})")
    return [found[name] for name in found if only is None or name in only]


def stored_versions(folder: DistillationFolder, kinds: Sequence[Kind] = tuple(Kind)) -> Iterator[StoredVersion]:
    """Every version of a distillation, kind by kind, in the order of names and versions."""
    for kind in kinds:
        root = folder.asset(kind)
        if kind in PARTITIONED:
            for partition in _folders(root):
                yield from _files(folder, kind, decode_partition(partition.name), partition)
        elif kind is Kind.GOLDEN_SET:
            yield from _files(folder, kind, None, root)
        elif kind in _BY_STUDENT:
            for student in _folders(root):
                yield from _published(folder, kind, student.name, student)
        else:
            yield from _published(folder, kind, None, root)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
    return path.lstat().st_size


def _files(folder: DistillationFolder, kind: Kind, name: str | None, root: Path) -> Iterator[StoredVersion]:
    current = read_current(root)
    for path in sorted(root.glob("[!.]*.parquet")):
        seen = current is not None and current.version == path.stem
        yield StoredVersion(folder.name, kind, name, path.stem, path, seen)


def _published(folder: DistillationFolder, kind: Kind, name: str | None, root: Path) -> Iterator[StoredVersion]:
    current = read_current(root)
    for path in _folders(root):
        # A base is a model's folder and has no manifest of ours.
        if kind is Kind.BASES or (path / MANIFEST_FILE).is_file():
            seen = current is not None and current.version == path.name
            yield StoredVersion(folder.name, kind, name, path.name, path, seen)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[!.]*") if path.is_dir())
