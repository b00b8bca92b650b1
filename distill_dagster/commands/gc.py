"""`distill gc`: frees what captured logits no longer need."""

import json
from dataclasses import asdict

from rich.console import Console

from distill_dagster.errors import StorageError
from distill_dagster.logits.compaction import Compacted, compact
from distill_dagster.logits.declared import capture_identity, needs_logits
from distill_dagster.logits.space import told
from distill_dagster.project import Distillation
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore

FORMAT = 1


def collect_garbage(distillation: Distillation) -> Compacted:
    """Compacts a distillation's captured logits, while no other process captures for it.

    Raises:
        StorageError: another process is capturing.
        LogitsError: an index cannot be read; nothing was changed then.
    """
    if not needs_logits(distillation):
        return compact(distillation.files.root)

    def busy() -> None:
        raise StorageError(
            f"{distillation.name}: another process is capturing logits; run `distill gc` when it is done"
        )

    leases = Leases(ResponseStore(distillation.project.store_url).engine)
    with leases.hold(f"capture/{distillation.name}/{capture_identity(distillation).digest}", busy):
        return compact(distillation.files.root)


def print_collected(found: Compacted, *, as_json: bool) -> None:
    """Prints a sentence, or JSON: {"format": 1, "bytes_before", "bytes_after", "shards_removed"}."""
    console = Console(highlight=False)
    if as_json:
        console.out(json.dumps({"format": FORMAT, **asdict(found)}, indent=2))
        return
    freed = found.bytes_before - found.bytes_after
    console.print(
        f"captured logits: {told(found.bytes_after)}, {told(freed)} freed, {found.shards_removed} files removed"
    )
