"""Where artifacts lie, and how they get there: written aside, fsynced, renamed.

A reader resolves an artifact through its `current.json` only, so it never sees half of one.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from distill_dagster.errors import StorageError

_reading_only: ContextVar[bool] = ContextVar("reading_only", default=False)


def encode_partition(partition: str) -> str:
    """A partition's folder name: percent-encoded, never empty, never `.` or `..`.

    Raises:
        StorageError: the partition's name is empty.
    """
    if not partition:
        raise StorageError("a partition's name is empty; give every row a value in the partition column")
    name = quote(partition, safe=" ")
    return name.replace(".", "%2E") if set(partition) == {"."} else name


def decode_partition(name: str) -> str:
    """The inverse of `encode_partition`."""
    return unquote(name)


@dataclass(frozen=True)
class Current:
    """What a `current.json` says: the version readers see and the build that chose it."""

    version: str
    build_key: str | None = None


class DistillationFolder:
    """The folder of one distillation under `DISTILL_HOME`."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.root = home / name

    def asset(self, asset: str, partition: str | None = None) -> Path:
        """The folder of an asset (`dataset`, `students/sft`) or of one of its partitions."""
        folder = self.root / asset
        return folder / encode_partition(partition) if partition is not None else folder

    def work(self, stage: str, key: str) -> Path:
        """A scratch folder that outlives a crash, so that work can resume; removed when the stage has published."""
        folder = self.root / ".work" / stage / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def partitions(self, asset: str) -> list[str]:
        """Partitions of an asset that have a current version, sorted."""
        folder = self.root / asset
        if not folder.is_dir():
            return []
        return sorted(decode_partition(p.parent.name) for p in folder.glob("*/current.json"))


def read_current(asset_folder: Path) -> Current | None:
    """The current version of an artifact, or None where there is none yet."""
    try:
        content = json.loads((asset_folder / "current.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Current(version=content["version"], build_key=content.get("build_key"))


def write_current(asset_folder: Path, current: Current) -> bool:
    """Points readers at a version; True where that changed anything."""
    if read_current(asset_folder) == current:
        return False
    write_json(asset_folder / "current.json", {"version": current.version, "build_key": current.build_key})
    return True


def remove_current(asset_folder: Path) -> bool:
    """Takes an artifact out of sight (its versions stay); True where it was in sight."""
    path = asset_folder / "current.json"
    if not path.exists():
        return False
    path.unlink()
    _sync_folder(asset_folder)
    return True


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically: sorted keys, UTF-8, a newline at the end."""
    text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


@contextmanager
def reading_only() -> Iterator[None]:
    """Inside the block nothing is remembered on disk and no model downloaded; everything is only looked at."""
    token = _reading_only.set(True)
    try:
        yield
    finally:
        _reading_only.reset(token)


def is_reading_only() -> bool:
    """Whether the caller is inside `reading_only`."""
    return _reading_only.get()


def remember(path: Path, content: Any) -> None:
    """Writes JSON that only saves work later; not inside `reading_only`."""
    if not is_reading_only():
        write_json(path, content)


def read_json(path: Path) -> Any:
    """Reads a JSON artifact.

    Raises:
        StorageError: the file is missing or torn.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; materialise it again") from None
    except json.JSONDecodeError as error:
        raise StorageError(f"{path}: not valid JSON ({error}); remove it and materialise it again") from None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then fsyncs it and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(aside)
        publish_file(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def publish_file(aside: Path, path: Path) -> None:
    """Makes a file that was written beside `path` durable and gives it its name, in place of what is there."""
    _sync_file(aside)
    os.replace(aside, path)
    _sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, published at `path` when the block ends well and removed when it does not.

    Where `path` exists already (another process made the same version) the new copy is dropped: equal
    versions have equal content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync_file(file)
        if not path.exists():
            os.rename(aside, path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def contained(root: Path, relative: str) -> Path:
    """`relative` below `root`, after links are followed.

    Raises:
        StorageError: the path leaves `root`.
    """
    resolved = (root / relative).resolve()
    if not resolved.is_relative_to(root.resolve()):
        raise StorageError(f"{relative!r} leaves the project ({root}); use a path inside it")
    return resolved


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
