"""Finds everything that has a prompt: what `distill forget` removes, and who had seen it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.catalog.stored import Kind, StoredVersion, stored_distillations, stored_versions
from distill_dagster.errors import CatalogError, StorageError
from distill_dagster.lineage.tombstones import StudentVersion, finish_tombstones, hashes_of
from distill_dagster.project import Project
from distill_dagster.prompts.splits import LEARNT_FROM
from distill_dagster.teachers.store.database import open_database
from distill_dagster.teachers.store.removal import stored_keys_of
from distill_dagster.teachers.store.responses import ResponseStore

ROWS_OF = (
    *(Kind.EVALUATIONS, Kind.PREDICTIONS, Kind.VARIANTS, Kind.DATASET, Kind.TEACHER_LOGITS, Kind.TEACHER_OUTPUTS),
    *(Kind.GOLDEN_SET, Kind.PROMPTS),
)
"""The kinds that have rows of prompts, in the order in which they are removed: the prompts lead to the rest."""
_HASHED = dict.fromkeys(("prompt_id", "row_hash", "text"), pl.String)


@dataclass(frozen=True)
class Forgettable:
    """What has a prompt.

    Attributes:
        prompts: (distillation, prompt id): the prompt, and all with its source row or its text.
        hashes: what blocks them from coming back.
        request_keys: of the stored responses to them.
        versions: those with one of their rows.
        students: those that had one in training or validation.
    """

    prompts: Sequence[tuple[str, str]] = ()
    hashes: Sequence[str] = ()
    request_keys: Sequence[str] = ()
    versions: Sequence[StoredVersion] = ()
    students: Sequence[StudentVersion] = ()

    def ids(self, distillation: str) -> list[str]:
        """The prompts' ids in a distillation."""
        return [prompt_id for name, prompt_id in self.prompts if name == distillation]


def find_forgettable(project: Project, prompt_id: str, only: Iterable[str] | None = None) -> Forgettable:
    """Looks for a prompt in every version of everything.

    Args:
        only: the distillations whose prompt it is; what has the same content elsewhere is found all the same.

    Raises:
        CatalogError: no version of any prompts has it.
        StorageError: it travels in a provider batch.
    """
    named = None if only is None else set(only)
    with Catalog(project) as catalog:
        prompts = _prompts(catalog, prompt_id, named)
        students = _students(catalog, prompts)
        folders = catalog.folders
    engine = open_database(project.store_url)
    keys = set(stored_keys_of(engine, prompts["messages"].drop_nulls()))
    pairs = sorted(set(prompts.select("distillation", "prompt_id").iter_rows()))
    versions = []
    for folder in folders:
        ids = [one for name, one in pairs if name == folder.name]
        for version in stored_versions(folder, ROWS_OF):
            found = _rows_of(version, ids)
            if found is not None:
                versions.append(version)
                keys.update(found)
    if travelling := len(ResponseStore(project.store_url).in_batches(pl.Series(sorted(keys), dtype=pl.String))):
        raise StorageError(
            f"{travelling} requests of prompt {prompt_id!r} travel in provider batches; collect them with "
            "`distill run`, or end them with `distill batches`, and forget it then"
        )
    order = {kind: number for number, kind in enumerate(ROWS_OF)}
    return Forgettable(
        prompts=pairs,
        hashes=_hashes(project.home, prompts),
        request_keys=sorted(keys),
        versions=sorted(versions, key=lambda one: (order[one.kind], one.distillation, one.name or "", one.version)),
        students=students,
    )


def finish_forgetting(project: Project, prompt_id: str, only: Iterable[str] | None = None) -> bool:
    """Finishes the tombstone of a prompt of which nothing is left, after a kill; False where there is none such."""
    names = [folder.name for folder in stored_distillations(project.home, only)]
    prompt = pl.DataFrame({"prompt_id": [prompt_id], "row_hash": [None], "text": [None]}, schema=_HASHED)
    hashes = [hashes_of(project.home, name, prompt)["by_id"].item() for name in names]
    return bool(finish_tombstones(project.home, hashes))


def has_any(path: Path, ids: Sequence[str]) -> bool:
    """Whether a Parquet file has a row of one of the prompts."""
    rows = pl.scan_parquet(path).filter(pl.col("prompt_id").is_in(list(ids))).select("prompt_id").head(1)
    return not rows.collect(engine="streaming").is_empty()


def _prompts(catalog: Catalog, prompt_id: str, named: set[str] | None) -> pl.DataFrame:
    """distillation, prompt_id, row_hash, text, messages of each version of the prompt and of what has its content."""
    own = catalog.rows(
        "SELECT distillation, row_hash, text FROM prompts_all WHERE prompt_id = $1 UNION ALL "
        "SELECT distillation, NULL AS row_hash, text FROM golden_set_all WHERE prompt_id = $1",
        prompt_id,
    )
    own = [row for row in own if named is None or row["distillation"] in named]
    if not own:
        where = "any distillation" if named is None else ", ".join(sorted(named))
        raise CatalogError(f"no prompt {prompt_id!r} is stored in {where}")
    names = sorted({row["distillation"] for row in own})
    rows = catalog.rows(
        """
        SELECT DISTINCT distillation, prompt_id, row_hash, text, messages FROM (
            SELECT distillation, prompt_id, row_hash, text, messages FROM prompts_all UNION ALL
            SELECT distillation, prompt_id, NULL AS row_hash, text, messages FROM golden_set_all
        )
        WHERE (prompt_id = $1 AND distillation IN (SELECT unnest($2::VARCHAR[])))
            OR text IN (SELECT unnest($3::VARCHAR[])) OR row_hash IN (SELECT unnest($4::VARCHAR[]))
        ORDER BY ALL
        """,
        prompt_id,
        names,
        sorted({row["text"] for row in own}),
        sorted({row["row_hash"] for row in own if row["row_hash"]}),
    )
    return pl.DataFrame(rows, schema={"distillation": pl.String, **_HASHED, "messages": pl.String})


def _students(catalog: Catalog, prompts: pl.DataFrame) -> list[StudentVersion]:
    """Those whose dataset has one of the prompts; one whose dataset is gone since an earlier forgetting may have."""
    pairs = sorted(set(prompts.select("distillation", "prompt_id").iter_rows()))
    rows = catalog.rows(
        """
        SELECT DISTINCT s.distillation, s.student, s.version FROM students_all s LEFT JOIN dataset_all d
            ON d.distillation = s.distillation AND d.version = s.dataset_version
        WHERE s.distillation IN (SELECT unnest($3::VARCHAR[])) AND (d.version IS NULL OR (
            d.split IN (SELECT unnest($1::VARCHAR[]))
            AND d.distillation || '/' || d.prompt_id IN (SELECT unnest($2::VARCHAR[]))
        ))
        ORDER BY ALL
        """,
        list(LEARNT_FROM),
        [f"{name}/{prompt_id}" for name, prompt_id in pairs],
        sorted({name for name, _ in pairs}),
    )
    return [StudentVersion(**row) for row in rows]


def _hashes(home: Path, prompts: pl.DataFrame) -> list[str]:
    frames = [hashes_of(home, str(name[0]), part) for name, part in prompts.group_by("distillation")]
    return sorted({value for frame in frames for column in frame for value in column.drop_nulls()})


def _rows_of(version: StoredVersion, ids: Sequence[str]) -> set[str] | None:
    """The request keys of the prompts' rows in a version; None where it has no such row."""
    files = sorted(version.path.glob("*.parquet")) if version.path.is_dir() else [version.path]
    keys: set[str] = set()
    is_found = False
    for file in files:
        columns = pl.read_parquet_schema(file)
        if ids and "prompt_id" in columns and has_any(file, ids):
            is_found = True
            if "request_key" in columns:
                rows = pl.scan_parquet(file).filter(pl.col("prompt_id").is_in(list(ids))).select("request_key")
                keys.update(rows.collect(engine="streaming")["request_key"].drop_nulls())
    return keys if is_found else None
