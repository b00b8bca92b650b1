"""The `teacher_outputs` stage: each partition's answers out of the response store, once they are all there."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import DistillError, StorageError
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import remove_vanished
from distill_dagster.storage import Current, read_current, remove_current, write_current
from distill_dagster.teachers.answered_by import write_teacher
from distill_dagster.teachers.answers.assessment import Assessor
from distill_dagster.teachers.answers.judging import JudgeRequests, verdicts
from distill_dagster.teachers.asking.asking import Asked
from distill_dagster.teachers.asking.obtaining import Purse, answers_to, try_to_obtain
from distill_dagster.teachers.asking.requests import prompt_chunks
from distill_dagster.teachers.asking.samples import join_answers, requests_of
from distill_dagster.teachers.outputs_file import OUTPUTS_SCHEMA, OutputsFile
from distill_dagster.teachers.protocol import Teacher, TeacherIdentity
from distill_dagster.teachers.providers import make_judge, make_teacher
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch

__all__ = [
    "ASSET",
    "OUTPUTS_SCHEMA",
    "OutputsBuild",
    "OutputsPartition",
    "answered_keys",
    "build_outputs",
    "make_teacher",
    "outputs_build_key",
    "outputs_current",
    "outputs_summary",
    "read_outputs",
    "remove_partitions",
]

ASSET = "teacher_outputs"
STAGE_NUMBER = 2


@dataclass(frozen=True)
class OutputsPartition:
    """A partition's adopted answers.

    Attributes:
        counts: rows, how they ended, tokens and micro-dollars.
    """

    partition: str
    version: str
    counts: Mapping[str, int]
    changed: bool


@dataclass
class OutputsBuild:
    """What one call of `build_outputs` came to.

    Attributes:
        partitions: those that are complete.
        failed: why the others are not.
        waiting: those whose missing answers are in provider batches, with how many; a later call collects them.
        asked: what was asked and what it cost.
    """

    partitions: dict[str, OutputsPartition] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)


def outputs_build_key(distillation: Distillation, partition: str, identity: TeacherIdentity) -> str | None:
    """The build key of a partition's answers; None while it has no prompts."""
    prompts = read_current(distillation.files.asset("prompts", partition))
    return None if prompts is None else outputs_key_for(distillation, prompts.version, identity)


def outputs_key_for(distillation: Distillation, prompts_version: str, identity: TeacherIdentity) -> str:
    """The build key of the answers to a version of prompts."""
    spec = distillation.spec.teacher
    settings: dict[str, Any] = {"teacher": identity.digest, "samples": spec.samples}
    assessed = Assessor(spec, distillation.folder, distillation.project.root).settings()
    return build_key(ASSET, STAGE_NUMBER, {"prompts": prompts_version}, settings | assessed)


def outputs_current(distillation: Distillation, partition: str, identity: TeacherIdentity) -> bool:
    """Whether a partition's answers are those of its current prompts and the declared teacher."""
    current = read_current(distillation.files.asset(ASSET, partition))
    key = outputs_build_key(distillation, partition, identity)
    return (
        current is not None and current.build_key == key and _parquet(distillation, partition, current.version).exists()
    )


def read_outputs(
    distillation: Distillation, partition: str, version: str | None = None, rows: int | None = None
) -> pl.DataFrame:
    """A partition's answers, of a version or the current one (OUTPUTS columns), all of them or the first `rows`.

    Raises:
        StorageError: the partition was never materialised.
    """
    path = _current_parquet(distillation, partition) if version is None else _parquet(distillation, partition, version)
    return pl.read_parquet(path, n_rows=rows)


def answered_keys(distillation: Distillation, partition: str) -> pl.DataFrame:
    """prompt_id and request_key of a partition's current answers.

    Raises:
        StorageError: the partition was never materialised.
    """
    return pl.read_parquet(_current_parquet(distillation, partition), columns=["prompt_id", "request_key"])


def outputs_summary(distillation: Distillation, partition: str) -> Mapping[str, int]:
    """What the current answers of a partition came to (`OutputsPartition.counts`); empty where there are none."""
    current = read_current(distillation.files.asset(ASSET, partition))
    record = Builds(distillation.project.home).find(current.build_key) if current and current.build_key else None
    return {name: int(count) for name, count in record.summary.items()} if record else {}


def remove_partitions(distillation: Distillation, found: Collection[str]) -> list[str]:
    """Takes partitions out of sight that the source no longer has, prompts and answers; their responses stay stored."""
    gone = remove_vanished(distillation, found)
    for asset in (ASSET, "teacher_logits"):
        for partition in set(distillation.files.partitions(asset)).difference(found):
            remove_current(distillation.files.asset(asset, partition))
    return gone


def build_outputs(
    distillation: Distillation,
    partitions: Sequence[str],
    teacher: Teacher,
    *,
    run: str | None = None,
    wait: bool = True,
    most_calls: int | None = None,
) -> OutputsBuild:
    """Answers the partitions' prompts and writes each partition's Parquet and JSONL.

    All partitions' missing requests go to the teacher together. Where it cannot finish, the partitions that
    are complete are written and the others are in `failed` or `waiting`.

    Args:
        run: which run spends, e.g. a Dagster run id.
        wait: whether to stay until provider batches have ended.
        most_calls: the most requests that may be new to the teacher; None for as many as there are.
    """
    build = OutputsBuild()
    pending = []
    for partition in partitions:
        adopted = _adopt(distillation, partition, teacher.identity)
        if adopted is not None:
            build.partitions[partition] = adopted
        else:
            pending.append(partition)
    if pending:
        _Building(distillation, teacher, Purse(distillation, run, wait, most_calls), build).build(pending)
    return build


def ask_one(distillation: Distillation, messages: str) -> str:
    """The teacher's answer to one conversation, out of the store where it was given before.

    Raises:
        TeacherError: a hosted teacher could not be asked.
    """
    prompt = pl.DataFrame({"messages": [messages], "sample": [0]})
    purse = Purse(distillation)
    return str(answers_to(make_teacher(distillation, no_launch), prompt, purse)["completion"][0])


class _IncompleteError(Exception):
    """A partition has prompts without an answer."""


class _Building:
    """One call of `build_outputs`, for the partitions that are not adopted."""

    def __init__(self, distillation: Distillation, teacher: Teacher, purse: Purse, build: OutputsBuild) -> None:
        self._distillation = distillation
        self._teacher = teacher
        self._purse = purse
        self._build = build
        self._store = ResponseStore(distillation.project.store_url)
        self._assessor = Assessor(distillation.spec.teacher, distillation.folder, distillation.project.root)
        self._judge = make_judge(distillation, self._assessor)

    def build(self, partitions: Sequence[str]) -> None:
        write_teacher(self._distillation, self._teacher.identity)
        problem = self._ask(partitions)
        for partition in partitions:
            try:
                self._build.partitions[partition] = self._write(partition)
            except _IncompleteError:
                travelling = self._in_batches(partition)
                if problem is None and travelling:
                    self._build.waiting[partition] = travelling
                else:
                    self._build.failed[partition] = str(problem)

    def _ask(self, partitions: Sequence[str]) -> DistillError | None:
        """Asks the teacher, then the judge; returns what went wrong, if anything did."""
        rounds = requests_of(self._distillation, partitions, self._teacher.identity, self._store)
        calls = [(self._teacher, requests) for requests in rounds]
        if self._judge is not None:
            chunks = JudgeRequests(partitions, self._rows, self._assessor, self._judge.identity)
            calls.append((self._judge, chunks))
        for teacher, requests in calls:
            purse = self._purse.left_after(self._build.asked) if teacher is self._teacher else self._purse.unplanned
            result = try_to_obtain(self._store, teacher, requests, purse)
            if isinstance(result, DistillError):
                return result
            self._build.asked += result
        return None

    def _rows(self, partition: str) -> Iterator[pl.DataFrame]:
        """A partition's prompts with all their samples' answers, a chunk at a time."""
        samples = self._distillation.spec.teacher.samples
        for prompts in prompt_chunks(self._distillation, partition):
            yield join_answers(prompts, samples, self._teacher.identity, self._store)

    def _assessed(self, partition: str) -> Iterator[pl.DataFrame]:
        for rows in self._rows(partition):
            if rows["status"].null_count():
                raise _IncompleteError
            judged = verdicts(rows, self._assessor, self._judge.identity, self._store) if self._judge else None
            if judged is not None and judged["status"].null_count():
                raise _IncompleteError
            yield self._assessor.assess(rows, judged)

    def _in_batches(self, partition: str) -> int:
        return sum(
            len(self._store.in_batches(rows.filter(pl.col("status").is_null())["request_key"]))
            for rows in self._rows(partition)
        )

    def _write(self, partition: str) -> OutputsPartition:
        distillation, identity = self._distillation, self._teacher.identity
        version, counts = OutputsFile(distillation.files.asset(ASSET, partition)).write(self._assessed(partition))
        key = outputs_build_key(distillation, partition, identity)
        prompts = read_current(distillation.files.asset("prompts", partition))
        if key is None or prompts is None:
            raise DistillError(
                f"{distillation.name}/prompts: partition {partition!r} vanished while it was being answered"
            )
        record = BuildRecord(key, ASSET, version, {"prompts": prompts.version, "teacher": identity.digest}, counts)
        adopted = Builds(distillation.project.home).adopt(record)
        changed = _point(distillation, partition, adopted)
        return OutputsPartition(partition, adopted.version, dict(adopted.summary), changed)


def _adopt(distillation: Distillation, partition: str, identity: TeacherIdentity) -> OutputsPartition | None:
    """Points at the partition's build of before, where the same inputs were built once."""
    key = outputs_build_key(distillation, partition, identity)
    known = Builds(distillation.project.home).find(key) if key else None
    if known is None or not _parquet(distillation, partition, known.version).exists():
        return None
    changed = _point(distillation, partition, known)
    return OutputsPartition(partition, known.version, dict(known.summary), changed)


def _point(distillation: Distillation, partition: str, record: BuildRecord) -> bool:
    folder = distillation.files.asset(ASSET, partition)
    return write_current(folder, Current(record.version, record.build_key))


def _current_parquet(distillation: Distillation, partition: str) -> Path:
    current = read_current(distillation.files.asset(ASSET, partition))
    if current is None:
        raise StorageError(f"{distillation.name}/{ASSET}: partition {partition!r} was never materialised")
    return _parquet(distillation, partition, current.version)


def _parquet(distillation: Distillation, partition: str, version: str) -> Path:
    return distillation.files.asset(ASSET, partition) / f"{version}.parquet"
