"""What was forgotten: salted hashes that block a prompt from coming back, and the students that had seen it.

`DISTILL_HOME/forgotten/` has a secret salt and one file a tombstone. Without the salt a hash says nothing of the
prompt; with it, whoever has a prompt can show that it was forgotten, and when.
"""

import os
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl
import polars_hash as plh
from pydantic import BaseModel, ConfigDict

from distill_dagster.errors import StorageError
from distill_dagster.lineage.hashing import digest
from distill_dagster.storage import read_json, write_file, write_json

FOLDER = "forgotten"
FORMAT = 1
_SALT_BYTES = 32
_NAME_CHARS = 32


class StudentVersion(NamedTuple):
    """A trained student."""

    distillation: str
    student: str
    version: str


class Tombstone(BaseModel):
    """One act of forgetting.

    Attributes:
        at: when (UTC).
        hashes: salted hashes of the prompts' ids in their distillations, of their source rows and of their texts.
        removed: what went, by kind.
        students: those that had seen it in training or validation.
        finished: whether everything was removed; `distill forget` for the same prompt goes on where it was cut short.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    at: datetime
    hashes: tuple[str, ...]
    removed: dict[str, int]
    students: tuple[StudentVersion, ...]
    finished: bool = False


def stale_students(home: Path) -> set[StudentVersion]:
    """The students that saw a prompt before it was forgotten."""
    return {student for tombstone in read_tombstones(home) for student in tombstone.students}


def read_tombstones(home: Path) -> list[Tombstone]:
    """All of them, oldest first.

    Raises:
        StorageError: one is torn.
    """
    paths = sorted((home / FOLDER).glob("[!.]*.json"))
    return sorted((_read(path) for path in paths), key=lambda one: (one.at, one.hashes))


def write_tombstone(home: Path, tombstone: Tombstone) -> None:
    """Writes it durably, in place of an unfinished one of the same prompts."""
    write_json(_path(home, tombstone.hashes), tombstone.model_dump(mode="json"))


def finish_tombstones(home: Path, hashes: Iterable[str]) -> list[Tombstone]:
    """Marks the unfinished tombstones with one of the hashes as finished, and returns them."""
    wanted = set(hashes)
    found = [one for one in read_tombstones(home) if not one.finished and wanted.intersection(one.hashes)]
    finished = [one.model_copy(update={"finished": True}) for one in found]
    for one in finished:
        write_tombstone(home, one)
    return finished


def hashes_of(home: Path, distillation: str, prompts: pl.DataFrame) -> pl.DataFrame:
    """The salted hashes of prompts: `by_id`, `by_row` and `by_text`, null where a row has null.

    Args:
        prompts: columns prompt_id, row_hash, text.
    """
    salt = _salt(home)

    def salted(kind: str, column: str) -> pl.Expr:
        head = pl.lit(f"{salt}:{kind}")
        return plh.concat_str([head, plh.col(column)], separator=":").chash.sha2_256()

    return prompts.select(
        by_id=salted(f"id:{distillation}", "prompt_id"),
        by_row=salted("row", "row_hash"),
        by_text=salted("text", "text"),
    )


def is_forgotten(home: Path, distillation: str, prompts: pl.DataFrame) -> pl.Series:
    """Whether each prompt was forgotten: by its id here, or by its source row or text anywhere.

    Args:
        prompts: columns prompt_id, row_hash, text.
    """
    known = sorted({found for tombstone in read_tombstones(home) for found in tombstone.hashes})
    if not known:
        return pl.Series("forgotten", [False] * len(prompts), dtype=pl.Boolean)
    hashes = hashes_of(home, distillation, prompts)
    found = pl.any_horizontal(pl.all().is_in(known).fill_null(False))
    return hashes.select(found.alias("forgotten"))["forgotten"]


def new_tombstone(hashes: Iterable[str], removed: dict[str, int], students: Sequence[StudentVersion]) -> Tombstone:
    """An unfinished one, of now."""
    return Tombstone(
        at=datetime.now(UTC).replace(microsecond=0),
        hashes=tuple(sorted(set(hashes))),
        removed=removed,
        students=tuple(sorted(set(students))),
    )


def _path(home: Path, hashes: Sequence[str]) -> Path:
    return home / FOLDER / f"{digest(sorted(hashes))[:_NAME_CHARS]}.json"


def _read(path: Path) -> Tombstone:
    try:
        return Tombstone.model_validate(read_json(path))
    except ValueError as error:
        raise StorageError(f"{path}: not a tombstone ({error}); restore it from a backup") from None


def _salt(home: Path) -> str:
    """The project's secret, made once.

    Raises:
        StorageError: it is gone while there are tombstones, which then block nothing.
    """
    path = home / FOLDER / "salt"
    if not path.exists():
        if any((home / FOLDER).glob("[!.]*.json")):
            raise StorageError(f"{path}: missing, and without it forgotten prompts would come back; restore it")

        def write(aside: Path) -> None:
            aside.touch(mode=0o600)
            aside.write_text(secrets.token_hex(_SALT_BYTES), encoding="ascii")

        write_file(path, write)
        os.chmod(path, 0o600)
    return path.read_text(encoding="ascii").strip()
