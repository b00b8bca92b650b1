"""Removes a prompt and its responses everywhere; what is left of it is a tombstone."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from distill_dagster.catalog.forgetting import Forgettable
from distill_dagster.catalog.stored import Kind, StoredVersion, stored_distillations
from distill_dagster.lineage.tombstones import finish_tombstones, new_tombstone, write_tombstone
from distill_dagster.logits.compaction import compact
from distill_dagster.logits.index import index_path, read_index, replace_index
from distill_dagster.project import Project
from distill_dagster.prompts.store import rewrite_without
from distill_dagster.storage import Current, DistillationFolder, remove_current, write_current, write_file
from distill_dagster.teachers.store.database import open_database
from distill_dagster.teachers.store.removal import remove_responses

_KEPT_WORK = ("measured",)  # how long captures took


def forget(project: Project, found: Forgettable) -> None:
    """Writes the tombstone, then removes everything; done again after a kill, it goes on where it was.

    Versions that have a row of the prompt are removed, and the next run makes the current ones anew from the remaining
    prompts and responses. Prompts and captured logits are rewritten without it. Students are only listed: what they
    learned cannot be taken out of their weights.
    """
    removed = dict(sorted(Counter(one.kind.value for one in found.versions).items()))
    removed |= {"responses": len(found.request_keys), "prompt_ids": len(found.prompts)}
    # First: from here on it cannot come back.
    write_tombstone(project.home, new_tombstone(found.hashes, removed, found.students))
    remove_responses(open_database(project.store_url), found.request_keys)
    for folder in stored_distillations(project.home):
        ids = found.ids(folder.name)
        if ids:
            _remove_work(folder)
            _rewrite_dropped(folder, ids)
    for version in found.versions:
        if version.kind is Kind.TEACHER_LOGITS:
            _rewrite_index(version, found.ids(version.distillation))
        elif version.kind is not Kind.PROMPTS:
            _remove(version)
    for folder in stored_distillations(project.home):
        if folder.asset(Kind.TEACHER_LOGITS).is_dir():
            compact(folder.root, without=found.request_keys)
    for version in found.versions:  # last: they are what leads to the rest
        if version.kind is Kind.PROMPTS:
            _rewrite_prompts(version, found.ids(version.distillation))
    finish_tombstones(project.home, found.hashes)


def _remove(version: StoredVersion) -> None:
    """The pointer goes first, so that no reader finds a version that is not there."""
    if version.current:
        remove_current(version.path.parent)
    for path in version.paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _rewrite_prompts(version: StoredVersion, ids: Sequence[str]) -> None:
    """The partition's other prompts stay, so that they can be found, and forgotten, before the next run."""
    rest = rewrite_without(version.path, ids)
    if version.current and rest is not None:
        write_current(version.path.parent, Current(rest))
    elif version.current:
        remove_current(version.path.parent)


def _rewrite_index(version: StoredVersion, ids: Sequence[str]) -> None:
    """An index without the prompt's sequences; what else was captured is not captured again."""
    index = read_index(version.path)
    kept = index.frame.filter(~pl.col("prompt_id").is_in(list(ids)))
    names = set(kept["shard"])
    rest = type(index)(index.identity, index.vocabulary, kept, {n: s for n, s in index.sizes.items() if n in names})
    folder = version.path.parent
    replace_index(index_path(folder, rest.version), rest)
    if version.current:
        write_current(folder, Current(rest.version))
    version.path.unlink(missing_ok=True)


def _rewrite_dropped(folder: DistillationFolder, ids: Sequence[str]) -> None:
    """The lists of rows that builds left out, without the prompt's rows and without its id as a reason."""
    for path in sorted((folder.asset(Kind.DATASET) / "dropped").glob("[!.]*.parquet")):
        rows = pl.read_parquet(path)
        is_named = pl.col("detail").is_in(list(ids))
        kept = rows.filter(~pl.col("prompt_id").is_in(list(ids)))
        kept = kept.with_columns(detail=pl.when(is_named).then(None).otherwise("detail"))
        if not kept.equals(rows):
            _write_parquet(path, kept)


def _write_parquet(path: Path, rows: pl.DataFrame) -> None:
    write_file(path, lambda aside: rows.write_parquet(aside))


def _remove_work(folder: DistillationFolder) -> None:
    """Unfinished work that may have read the prompt."""
    for work in (folder.root / ".work").glob("*/*"):
        if work.is_dir() and work.name not in _KEPT_WORK:
            shutil.rmtree(work)
