"""What the provider says of a distillation's open batches, and which partitions wait for them; needs the SDK."""

import time
from collections.abc import Sequence

from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.batches import BatchClient
from distill_dagster.teachers.anthropic.batching import GRACE_S, Batching
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.asking.obtaining import Purse
from distill_dagster.teachers.asking.requests import prompt_chunks, with_samples
from distill_dagster.teachers.outputs import outputs_current
from distill_dagster.teachers.store.ledger import Batch, BatchState, now_ms
from distill_dagster.teachers.store.responses import ResponseStore

# A sensor's tick is short: one try a batch, and the oldest batches first, which end first.
TIMEOUT_S = 5.0
LOOK_S = 5.0


class _QuickClient(BatchClient):
    """Gives up soon, and tries once."""

    def __init__(self, teacher: AnthropicTeacher) -> None:
        super().__init__(teacher.spec, teacher.requests, teacher.price)
        self._client = self._client.with_options(timeout=TIMEOUT_S, max_retries=0)


def batches_to_visit(teacher: AnthropicTeacher, open_batches: Sequence[Batch]) -> list[Batch]:
    """The open batches that have something to collect or to find out.

    Raises:
        TeacherError: the API cannot be asked.
    """
    until = time.monotonic() + LOOK_S
    ready = [batch for batch in open_batches if batch.state is BatchState.ENDED or _is_lost(batch)]
    travelling = [batch for batch in open_batches if batch.state is BatchState.CREATED]
    if travelling:
        with _QuickClient(teacher) as client:
            for batch in travelling:
                if time.monotonic() > until:
                    break
                assert batch.provider_id is not None
                if client.retrieve(batch.provider_id).has_ended:
                    ready.append(batch)
    return ready


def waiting_partitions(distillation: Distillation, teacher: AnthropicTeacher) -> list[str]:
    """The partitions that are not current and have requests in a batch."""
    store = ResponseStore(distillation.project.store_url)
    return [
        partition
        for partition in distillation.files.partitions("prompts")
        if not outputs_current(distillation, partition, teacher.identity)
        and _is_waiting(distillation, partition, teacher, store)
    ]


def collect_ended(distillation: Distillation, teacher: AnthropicTeacher, run: str) -> None:
    """Stores the answers of the teacher's batches that have ended; asks nothing.

    Raises:
        TeacherError: the API cannot be asked.
    """
    purse = Purse(distillation, run, wait=False)
    store = ResponseStore(distillation.project.store_url)
    Batching(store, teacher, purse.budget, wait=False, home=purse.home).collect()


def _is_lost(batch: Batch) -> bool:
    """Whether a batch without an id is old enough to be looked for; a younger one is perhaps being sent right now."""
    return batch.state is BatchState.INTENDED and now_ms() - (batch.sent_at or batch.intended_at) >= GRACE_S * 1000


def _is_waiting(distillation: Distillation, partition: str, teacher: AnthropicTeacher, store: ResponseStore) -> bool:
    samples = range(teacher.spec.samples)
    return any(
        len(store.in_batches(with_samples(prompts, samples, teacher.identity)["request_key"]))
        for prompts in prompt_chunks(distillation, partition)
    )
