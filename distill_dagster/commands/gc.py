"""`distill gc`: frees what nothing refers to any more, never a response."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.catalog.garbage import Garbage, find_garbage, remove_garbage
from distill_dagster.catalog.stored import Kind
from distill_dagster.commands.run import running_processes
from distill_dagster.errors import StorageError
from distill_dagster.evaluation.formatting import count
from distill_dagster.logits.compaction import Compacted, compact, foresee
from distill_dagster.logits.declared import capture_identity, needs_logits
from distill_dagster.logits.space import told
from distill_dagster.project import Distillation
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore

FORMAT = 1
SHOWN = 8


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be.

    Attributes:
        logits: what became of the captured logits.
    """

    distillation: str
    dry_run: bool
    removed: list[Garbage]
    logits: Compacted

    @property
    def removed_bytes(self) -> int:
        """Bytes of `removed`; the captured logits have their own."""
        return sum(one.bytes for one in self.removed)


def collect_garbage(distillation: Distillation, *, dry_run: bool = False) -> Collected:
    """Removes what nothing refers to, then compacts captured logits, while nothing else works on the distillation.

    Raises:
        StorageError: a run or a capture is under way, or a manifest cannot be read; nothing was changed then.
        LogitsError: an index cannot be read.
    """
    files = distillation.files
    if dry_run:
        found = find_garbage(files)
        indexes = [path for one in found if one.kind == Kind.TEACHER_LOGITS for path in one.paths]
        return Collected(distillation.name, True, found, foresee(files.root, indexes))
    if running := running_processes(files):
        raise StorageError(f"{distillation.name}: process {running[0]} is running it; run `distill gc` when it is done")
    return _alone(distillation, lambda: _collect(distillation))


def _collect(distillation: Distillation) -> Collected:
    found = find_garbage(distillation.files)
    remove_garbage(found)
    return Collected(distillation.name, False, found, compact(distillation.files.root))


def _alone(distillation: Distillation, work: Callable[[], Collected]) -> Collected:
    """Does it while no other process captures for the distillation."""
    if not needs_logits(distillation):
        return work()

    def busy() -> None:
        raise StorageError(
            f"{distillation.name}: another process is capturing logits; run `distill gc` when it is done"
        )

    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"capture/{distillation.name}/{capture_identity(distillation).digest}", busy):
        return work()


def print_collected(found: Collected, *, as_json: bool) -> None:
    """Prints a table and a sentence, or JSON.

    The JSON is {"format": 1, "distillation", "dry_run", "removed": [{kind, name, version, bytes}], "removed_bytes",
    "bytes_before", "bytes_after", "shards_removed"}; the last three are of captured logits.
    """
    console = Console(highlight=False)
    if as_json:
        removed = [{name: getattr(one, name) for name in ("kind", "name", "version", "bytes")} for one in found.removed]
        content = {
            "format": FORMAT,
            "distillation": found.distillation,
            "dry_run": found.dry_run,
            "removed": removed,
            "removed_bytes": found.removed_bytes,
            **asdict(found.logits),
        }
        console.out(json.dumps(content, indent=2, ensure_ascii=False))
        return
    if found.removed:
        console.print(_table(found.removed))
    would = "would be " if found.dry_run else ""
    logits = found.logits
    freed = logits.bytes_before - logits.bytes_after
    console.print(Text(f"{count(len(found.removed))} unreferenced versions and leftovers {would}removed: "), end="")
    console.print(Text(told(found.removed_bytes)))
    console.print(
        Text(
            f"captured logits: {told(logits.bytes_after)}, {told(freed)} {would}freed, "
            f"{logits.shards_removed} files {would}removed"
        ),
        soft_wrap=True,
    )


def _table(removed: list[Garbage]) -> Table:
    table = Table("what", "of", "version", box=None, header_style="bold", pad_edge=False)
    table.add_column("size", justify="right")
    for one in removed:
        version = one.version[:SHOWN] if one.version else one.paths[0].name
        table.add_row(Text(one.kind), Text(one.name or ""), Text(version), Text(told(one.bytes)))
    return table
