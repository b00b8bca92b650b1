"""`distill batches`: the provider batches of a distillation, and how to end one."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from distill_dagster.errors import TeacherError
from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.teachers.store.ledger import Batch, BatchState, Ledger
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch

FORMAT = 1


def print_batches(distillation: Distillation, *, as_json: bool) -> None:
    """Prints a table, or JSON: {"format": 1, "batches": [{id, provider_id, state, requests, sent_at, counts}]}."""
    console = Console(highlight=False)
    found = _ledger(distillation).find(distillation=distillation.name, is_open=False)
    if as_json:
        rows = [
            {
                "id": batch.id,
                "provider_id": batch.provider_id,
                "state": batch.state.value,
                "requests": batch.requests,
                "sent_at": _moment(batch.sent_at),
                "counts": dict(batch.counts),
            }
            for batch in found
        ]
        console.out(json.dumps({"format": FORMAT, "batches": rows}, indent=2))
    elif not found:
        console.print(f"{distillation.name}: no batch was ever sent")
    else:
        console.print(_table(found), soft_wrap=True)


def cancel_batch(distillation: Distillation, provider_id: str) -> str:
    """Asks the provider to stop a batch; what it has answered by then is billed, and collected by the next run.

    Raises:
        TeacherError: it is not open, or the API cannot be asked.
    """
    from distill_dagster.teachers.anthropic.batches import BatchClient

    _open(distillation, provider_id)
    teacher = make_teacher(distillation, no_launch)
    assert isinstance(teacher, AnthropicTeacher)
    teacher.check()
    with BatchClient(teacher.spec, teacher.requests, teacher.price) as client:
        client.cancel(provider_id)
    return f"{provider_id} is being cancelled; `distill run {distillation.name}` collects what it has answered"


def give_up_batch(distillation: Distillation, provider_id: str) -> str:
    """Forgets a batch whose results cannot be had; its requests are free to be asked again, and count as paid.

    Raises:
        TeacherError: it is not open.
    """
    batch = _open(distillation, provider_id)
    _ledger(distillation).give_up(batch)
    return f"{provider_id} is given up: its {batch.requests:,} requests count as paid and will be asked again"


def _open(distillation: Distillation, provider_id: str) -> Batch:
    found = {batch.provider_id: batch for batch in _ledger(distillation).find(distillation=distillation.name)}
    if provider_id not in found:
        known = ", ".join(str(name) for name in found if name) or "none"
        raise TeacherError(f"{distillation.name} has no open batch {provider_id!r} (open: {known})")
    return found[provider_id]


def _ledger(distillation: Distillation) -> Ledger:
    return Ledger(ResponseStore(distillation.project.store_url).engine)


def _table(found: Sequence[Batch]) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("batch", "state", "requests", "sent", "ended as"):
        table.add_column(name, no_wrap=name == "batch")
    colours = {BatchState.INGESTED: "green", BatchState.ABANDONED: "red"}
    for batch in found:
        ended = ", ".join(f"{count:,} {name}" for name, count in batch.counts.items() if count)
        table.add_row(
            batch.provider_id or "–",
            f"[{colours.get(batch.state, 'yellow')}]{batch.state}[/]",
            f"{batch.requests:,}",
            _moment(batch.sent_at) or "–",
            ended or "–",
        )
    return table


def _moment(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
