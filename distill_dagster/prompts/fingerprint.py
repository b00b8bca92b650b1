"""Tells cheaply whether the source of prompts may have changed: files by size and time, a query by its watermark.

An unchanged file is not opened. What a changed one holds decides, so that a touched file is no change.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distill_dagster.errors import SourceError, StorageError
from distill_dagster.lineage.hashing import canonical_json, digest
from distill_dagster.project import Distillation
from distill_dagster.prompts.source_files import find_files
from distill_dagster.prompts.source_python import UserFunction
from distill_dagster.prompts.sources import sql_row
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.storage import contained

SETTLE_S = 5.0
_FILE_KINDS = ("jsonl", "csv", "parquet")


class FileMark(BaseModel):
    """A file as it was when it was hashed: bytes, modification time in ns, SHA-256."""

    model_config = ConfigDict(frozen=True)

    size: int
    mtime_ns: int
    sha256: str


class Fingerprint(BaseModel):
    """What was seen of a source.

    Attributes:
        files: the source's files, by their path relative to the YAML file's folder.
        watermark: the row of `automation.watermark`, as JSON.
        declaration: hash of the settings that decide what a row's prompt is.
    """

    model_config = ConfigDict(frozen=True)

    files: Mapping[str, FileMark]
    watermark: str | None
    declaration: str

    @property
    def digest(self) -> str:
        """Hash of the content that was seen: equal after a file was touched."""
        hashes = {label: mark.sha256 for label, mark in self.files.items()}
        return digest({"files": hashes, "watermark": self.watermark, "declaration": self.declaration})[:32]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(mark.size for mark in self.files.values())

    def is_settled(self, now: float) -> bool:
        """Whether no file was written in the last seconds before `now` (s since the epoch)."""
        return all(not 0 <= now - mark.mtime_ns / 1e9 < SETTLE_S for mark in self.files.values())


def why_unwatchable(spec: DistillationSpec) -> str | None:
    """Why a source cannot be watched cheaply, and what to write; None where it can."""
    source, automation = spec.prompts.source, spec.automation
    if source.kind == "sql" and automation.watermark is None and not automation.watch:
        return "a query is not watched by itself; write automation.watermark or automation.watch"
    if source.kind == "huggingface" and not automation.watch:
        return "a data set on the hub is not watched; run `prompts` by a schedule"
    return None


def take_fingerprint(distillation: Distillation, known: Fingerprint | None = None) -> Fingerprint:
    """The source as it is now.

    Args:
        distillation: whose source.
        known: an earlier one; files of equal size and time are taken from it unread.

    Raises:
        SourceError: a file is missing or leaves the project, or the watermark's query fails.
    """
    spec = distillation.spec
    seen: Mapping[str, FileMark] = known.files if known is not None else {}
    settings = {
        "prompts": spec.prompts.model_dump(mode="json"),
        "student_prompt": spec.student_prompt.model_dump(mode="json"),
        "held_out": list(spec.evaluation.held_out_partitions),
    }
    return Fingerprint(
        files={label: _mark(label, path, seen.get(label)) for label, path in sorted(_files(distillation).items())},
        watermark=_watermark(distillation),
        declaration=digest(settings)[:32],
    )


def _files(distillation: Distillation) -> dict[str, Path]:
    """All files that the source is known to read, by label."""
    folder, root, spec = distillation.folder, distillation.project.root, distillation.spec
    source = spec.prompts.source
    files: dict[str, Path] = {}
    if source.kind in _FILE_KINDS:
        files |= find_files(source.value, folder, root)
    if source.python is not None:
        module = UserFunction("prompts.source.python", source.python, folder, SourceError).path
        files |= _labelled([module, *folder.glob("*.py")], distillation)  # a module may import its neighbours
    if isinstance(spec.prompts.few_shot, str):
        files |= _labelled([folder / spec.prompts.few_shot], distillation)
    for pattern in spec.automation.watch:
        try:
            files |= find_files(pattern, folder, root)
        except SourceError as error:
            raise SourceError(f"automation.watch: {error}") from None
    return files


def _labelled(paths: Iterable[Path], distillation: Distillation) -> dict[str, Path]:
    try:
        return {
            path.relative_to(distillation.folder).as_posix(): contained(distillation.project.root, str(path.absolute()))
            for path in paths
        }
    except (ValueError, StorageError) as error:
        raise SourceError(f"{error}; a source's files lie beside the YAML file") from None


def _mark(label: str, path: Path, known: FileMark | None) -> FileMark:
    try:
        stat = path.stat()
        if known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return known
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{label}: cannot be read ({error.strerror or error})") from None
    return FileMark(size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)


def _watermark(distillation: Distillation) -> str | None:
    query = distillation.spec.automation.watermark
    if query is None:
        return None
    return canonical_json(sql_row(query, distillation.folder, "automation.watermark"))
