"""What capturing would still take: sequences, tokens and bytes, before any of it is done."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from distill_dagster.errors import LogitsError
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.logits.build import read_logits_index
from distill_dagster.logits.capturing import CHARACTERS_PER_TOKEN
from distill_dagster.logits.declared import capture_identity, needs_logits
from distill_dagster.logits.places import Places
from distill_dagster.logits.shards import shards_folder
from distill_dagster.logits.space import bytes_per_token, existing_parent, hidden_bytes, require_space, vocabulary_of
from distill_dagster.logits.wanted import wanted_completions
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import LEARNT_FROM
from distill_dagster.prompts.store import prompts_file
from distill_dagster.storage import read_current


@dataclass(frozen=True)
class CaptureEstimate:
    """What is still to be captured.

    Attributes:
        captured: completions that are.
        missing: completions that are not, those of answers still to come among them.
        tokens: in the missing ones; exact where the teacher has answered, else as long as its answers so far, or the
            longest allowed where it has given none.
        bytes: most bytes these take before compression, hidden states of validation rows included.
        free_bytes: on the disk.
    """

    captured: int
    missing: int
    tokens: int
    bytes: int
    free_bytes: int


def require_room(distillation: Distillation, partitions: Sequence[str]) -> None:
    """Refuses a run, before it asks the teacher anything, whose captures the disk has no room for.

    Raises:
        LogitsError: with what is needed and what is free.
    """
    found = estimate_capture(distillation, partitions)
    if found is not None and found.missing:
        what = f"{found.missing:,} completions of about {found.tokens:,} tokens"
        require_space(distillation.files.root, found.bytes, what)


def estimate_capture(distillation: Distillation, partitions: Sequence[str]) -> CaptureEstimate | None:
    """Looks at the current prompts and answers of some partitions; None where no student learns from logits.

    Raises:
        TeacherError: the teacher's model is found nowhere.
    """
    if not needs_logits(distillation):
        return None
    identity, teacher = capture_identity(distillation), distillation.spec.teacher
    places = Places(shards_folder(distillation.files.root, identity))
    captured = missing = known_tokens = tokens = hidden_tokens = 0
    for partition in sorted(set(partitions).intersection(distillation.files.partitions("teacher_outputs"))):
        try:
            before = read_logits_index(distillation, partition)
        except LogitsError:
            before = None
        rows = places.find(
            wanted_completions(distillation, partition), before if before and before.identity == identity else None
        )
        lengths = rows["tokens"].fill_null(rows["completion"].str.len_chars() // CHARACTERS_PER_TOKEN)
        absent = rows["shard"].is_null()
        captured, missing = captured + int((~absent).sum()), missing + int(absent.sum())
        known_tokens, tokens = known_tokens + int(lengths.sum()), tokens + int(lengths.filter(absent).sum())
        hidden_tokens += int(lengths.filter(absent & rows["has_hidden"]).sum())
    answered = captured + missing
    unanswered = max(0, sum(_prompts(distillation, partition) for partition in partitions) - answered)
    to_come = unanswered * (known_tokens // answered if answered else teacher.max_tokens)
    model = find_model(distillation, teacher.model) if teacher.is_local else None
    size = (tokens + to_come) * bytes_per_token(identity, vocabulary_of(model) if model else None)
    size += hidden_tokens * (hidden_bytes(model) if model else 0)
    free = shutil.disk_usage(existing_parent(distillation.files.root)).free
    return CaptureEstimate(captured, missing + unanswered, tokens + to_come, int(size), free)


def _prompts(distillation: Distillation, partition: str) -> int:
    """Training and validation prompts of a partition; 0 where it has none yet."""
    if read_current(distillation.files.asset("prompts", partition)) is None:
        return 0
    splits = pl.scan_parquet(prompts_file(distillation, partition)).filter(pl.col("split").is_in(LEARNT_FROM))
    return int(splits.select(pl.len()).collect().item())
