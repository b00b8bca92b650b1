"""The `teacher_logits[p]` stage: sends what is not captured yet through the teacher, and indexes each partition."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill_dagster.errors import LogitsError
from distill_dagster.jobs import RESULT_FILE
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.logits.capturing import SEQUENCES_FILE, add_seconds, capture_job, take_over, write_sequences
from distill_dagster.logits.declared import capture_identity
from distill_dagster.logits.index import Index, index_path, missing_rows, read_index, write_index
from distill_dagster.logits.places import Places
from distill_dagster.logits.shards import kept_hidden_bytes, read_info, shards_folder
from distill_dagster.logits.space import bytes_per_token, require_space, told
from distill_dagster.logits.wanted import WANTED, inputs_of, wanted_completions
from distill_dagster.progress import tell
from distill_dagster.project import Distillation
from distill_dagster.storage import Current, read_current, read_json, write_current
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch, run_job

ASSET = "teacher_logits"
STAGE_NUMBER = 1


@dataclass(frozen=True)
class LogitsPartition:
    """A partition's adopted index.

    Attributes:
        counts: sequences, tokens, the bytes that their sparse targets take in the shards, and those of the hidden
            states that are kept beside.
    """

    partition: str
    version: str
    counts: Mapping[str, float]
    changed: bool


@dataclass
class LogitsBuild:
    """What one call of `build_logits` came to: the partitions, and what was captured for them now."""

    partitions: dict[str, LogitsPartition] = field(default_factory=dict)
    sequences: int = 0
    tokens: int = 0


def logits_build_key(distillation: Distillation, partition: str, identity: CaptureIdentity) -> str | None:
    """The build key of a partition's index; None while it has no answers."""
    inputs = inputs_of(distillation, partition)
    return None if inputs is None else _key_for(distillation, inputs, identity)


def captured_version(distillation: Distillation, partition: str, inputs: Mapping[str, str]) -> str | None:
    """The index of an earlier build of a partition's `prompts` and `teacher_outputs`, if its shards are whole."""
    identity = capture_identity(distillation)
    known = Builds(distillation.project.home).find(_key_for(distillation, inputs, identity))
    return known.version if known is not None and _is_whole(distillation, partition, known.version, identity) else None


def _key_for(distillation: Distillation, inputs: Mapping[str, str], identity: CaptureIdentity) -> str:
    settings = {
        "capture": identity.digest,
        "validation_rows": distillation.spec.logits.validation_rows,
        "truncated": "truncated" in distillation.spec.curation.drop,
    }
    return build_key(ASSET, STAGE_NUMBER, inputs, settings)


def logits_current(distillation: Distillation, partition: str, identity: CaptureIdentity) -> bool:
    """Whether a partition's index is that of its current answers and the declared teacher, and its shards are whole."""
    current = read_current(distillation.files.asset(ASSET, partition))
    if current is None or current.build_key != logits_build_key(distillation, partition, identity):
        return False
    return _is_whole(distillation, partition, current.version, identity)


def read_logits_index(distillation: Distillation, partition: str) -> Index:
    """The current index of a partition.

    Raises:
        LogitsError: there is none, or it is damaged.
    """
    folder = distillation.files.asset(ASSET, partition)
    current = read_current(folder)
    if current is None:
        raise LogitsError(f"{distillation.name}/{ASSET}: partition {partition!r} was never materialised")
    return read_index(index_path(folder, current.version))


def build_logits(distillation: Distillation, partitions: Sequence[str], launch: Launch) -> LogitsBuild:
    """Captures what the partitions' answers lack, all of it in one start of the worker, and writes their indexes.

    Raises:
        LogitsError: too little disk, or a capture that cannot be made.
        TeacherError: the teacher cannot be loaded, or its server not asked.
    """
    identity = capture_identity(distillation)
    build = LogitsBuild()
    pending = []
    for partition in partitions:
        adopted = _adopt(distillation, partition, identity)
        if adopted is not None:
            build.partitions[partition] = adopted
        else:
            pending.append(partition)
    if pending:
        _Building(distillation, identity, launch, build).build(pending)
    return build


class _Building:
    """One call of `build_logits`, for the partitions that are not adopted."""

    def __init__(
        self, distillation: Distillation, identity: CaptureIdentity, launch: Launch, build: LogitsBuild
    ) -> None:
        self._distillation = distillation
        self._identity = identity
        self._launch = launch
        self._build = build
        self._shards = shards_folder(distillation.files.root, identity)
        self._places = Places(self._shards)

    def build(self, partitions: Sequence[str]) -> None:
        """Only one process captures for a teacher at a time; the next finds what the first left."""
        leases = Leases(ResponseStore(self._distillation.project.store_url).engine)
        work = self._distillation.files.work("capture", self._identity.digest[:32])
        with leases.hold(f"capture/{self._distillation.name}/{self._identity.digest}"):
            self._take_over(work)
            if any(not missing.is_empty() for missing in self._missing(partitions)):
                self._capture(work, partitions)
            for partition in partitions:
                self._build.partitions[partition] = self._write(partition)

    def _missing(self, partitions: Iterable[str]) -> Iterator[pl.DataFrame]:
        for partition in partitions:
            rows = self._placed(partition)
            yield rows.filter(pl.col("shard").is_null()).unique("request_key", maintain_order=True)

    def _placed(self, partition: str) -> pl.DataFrame:
        return self._places.find(wanted_completions(self._distillation, partition), self._before(partition))

    def _before(self, partition: str) -> Index | None:
        """The partition's index so far, where it is of the same capture and can be read."""
        try:
            index = read_logits_index(self._distillation, partition)
        except LogitsError:
            return None
        return index if index.identity == self._identity else None

    def _capture(self, work: Path, partitions: Sequence[str]) -> None:
        sequences, tokens = write_sequences(work / SEQUENCES_FILE, self._missing(partitions))
        needed = int(tokens * bytes_per_token(self._identity))
        require_space(self._distillation.files.root, needed, f"{sequences:,} completions of {tokens:,} tokens")
        tell(f"capturing {sequences:,} completions of {tokens:,} tokens, at most {told(needed)}")
        job = capture_job(self._distillation, self._identity, work)
        run_job(job, self._launch, on_poll=lambda: self._take_over(work))
        result = read_json(work / RESULT_FILE)
        add_seconds(self._distillation, self._identity, result["measurements"]["seconds"])
        self._build.sequences, self._build.tokens = int(result["sequences"]), int(result["tokens"])
        if result["over_context"]:
            raise LogitsError(
                f"{result['over_context']} completions are longer than the teacher's context with their prompts, "
                "so they cannot be captured; leave their prompts out, or shorten them"
            )

    def _take_over(self, work: Path) -> None:
        if take_over(work, self._shards, self._identity):
            self._places.forget()

    def _write(self, partition: str) -> LogitsPartition:
        rows = self._placed(partition)
        lost = rows.filter(pl.col("shard").is_null())
        if not lost.is_empty():
            raise LogitsError(
                f"{self._distillation.name}/{ASSET}: {len(lost)} completions of partition {partition!r} were not "
                "captured; run again"
            )
        names = rows["shard"].unique().to_list()
        vocabulary = read_info(self._shards / names[0]).vocabulary if names else 0
        index = Index(self._identity, vocabulary, rows.select(*WANTED, "shard", "row"), self._places.sizes(names))
        version = write_index(self._distillation.files.asset(ASSET, partition), index, self._shards)
        key = logits_build_key(self._distillation, partition, self._identity)
        inputs = inputs_of(self._distillation, partition)
        assert key is not None
        assert inputs is not None
        summary = _summary(index, self._shards)
        record = BuildRecord(key, ASSET, version, inputs | {"teacher": self._identity.model}, summary)
        adopted = Builds(self._distillation.project.home).adopt(record, rebuild=True)
        return _pointed(self._distillation, partition, adopted)


def _summary(index: Index, shards: Path) -> dict[str, float]:
    """Sequences, tokens and their share of the shards' bytes; kept hidden states are counted apart."""
    rows = index.frame
    taken = hidden = 0.0
    for shard, used in rows.group_by("shard").agg(pl.len()).iter_rows():
        share, kept = used / read_info(shards / shard).sequences, kept_hidden_bytes(shards / shard)
        taken, hidden = taken + share * (index.sizes[shard] - kept), hidden + share * kept
    tokens = int(rows["tokens"].sum())
    return {"sequences": len(rows), "tokens": tokens, "bytes": int(taken), "hidden_bytes": int(hidden)}


def _adopt(distillation: Distillation, partition: str, identity: CaptureIdentity) -> LogitsPartition | None:
    """Points at the partition's index of before, where the same answers were captured once and still are."""
    key = logits_build_key(distillation, partition, identity)
    known = Builds(distillation.project.home).find(key) if key else None
    if known is None or not _is_whole(distillation, partition, known.version, identity):
        return None
    return _pointed(distillation, partition, known)


def _pointed(distillation: Distillation, partition: str, record: BuildRecord) -> LogitsPartition:
    changed = write_current(distillation.files.asset(ASSET, partition), Current(record.version, record.build_key))
    return LogitsPartition(partition, record.version, dict(record.summary), changed)


def _is_whole(distillation: Distillation, partition: str, version: str, identity: CaptureIdentity) -> bool:
    """Whether an index can be read and every shard it refers to is whole."""
    path = index_path(distillation.files.asset(ASSET, partition), version)
    try:
        return missing_rows(read_index(path), shards_folder(distillation.files.root, identity)).is_empty()
    except LogitsError:
        return False
