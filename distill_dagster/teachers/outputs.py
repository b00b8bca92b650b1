"""The `teacher_outputs` stage: each partition's answers out of the response store, once they are all there."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill_dagster.errors import DistillError, StorageError
from distill_dagster.lineage.builds import BuildRecord, Builds, build_key
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import read_prompts, remove_vanished
from distill_dagster.storage import Current, read_current, remove_current, write_current, write_file
from distill_dagster.teachers.anthropic import AnthropicTeacher
from distill_dagster.teachers.asking import Asked, Asking
from distill_dagster.teachers.budget import Budget
from distill_dagster.teachers.local import LocalTeacher
from distill_dagster.teachers.protocol import Teacher, TeacherIdentity
from distill_dagster.teachers.store import FETCHED, ResponseStore
from distill_dagster.worker_process import Launch, no_launch

ASSET = "teacher_outputs"
STAGE_NUMBER = 1
# Cost and usage are facts about one call, not about the answer.
VERSION_COLUMNS = ("prompt_id", "sample", "request_key", "status", "stop_reason", "completion", "thinking", "token_ids")
OUTPUTS_SCHEMA = {"prompt_id": pl.String, "sample": pl.Int32, **FETCHED}
LOCAL_CLAIM = 5_000


@dataclass(frozen=True)
class OutputsPartition:
    """A partition's adopted answers."""

    partition: str
    version: str
    counts: Mapping[str, int]
    changed: bool


@dataclass
class OutputsBuild:
    """What one call of `build_outputs` came to."""

    partitions: dict[str, OutputsPartition] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    asked: Asked | None = None


def make_teacher(distillation: Distillation, launch: Launch) -> Teacher:
    """The declared teacher.

    Raises:
        TeacherError: a local model that is not there.
    """
    if distillation.spec.teacher.is_local:
        return LocalTeacher(distillation, launch)
    return AnthropicTeacher(distillation.spec.teacher)


def outputs_build_key(distillation: Distillation, partition: str, identity: TeacherIdentity) -> str | None:
    """The build key of a partition's answers; None while it has no prompts."""
    prompts = read_current(distillation.files.asset("prompts", partition))
    if prompts is None:
        return None
    return build_key(ASSET, STAGE_NUMBER, {"prompts": prompts.version}, {"teacher": identity.digest})


def outputs_current(distillation: Distillation, partition: str, identity: TeacherIdentity) -> bool:
    """Whether a partition's answers are those of its current prompts and the declared teacher."""
    current = read_current(distillation.files.asset(ASSET, partition))
    key = outputs_build_key(distillation, partition, identity)
    return (
        current is not None and current.build_key == key and _parquet(distillation, partition, current.version).exists()
    )


def read_outputs(distillation: Distillation, partition: str, version: str | None = None) -> pl.DataFrame:
    """A partition's answers, of a version or the current one (OUTPUTS columns).

    Raises:
        StorageError: the partition was never materialised.
    """
    if version is None:
        current = read_current(distillation.files.asset(ASSET, partition))
        if current is None:
            raise StorageError(f"{distillation.name}/{ASSET}: partition {partition!r} was never materialised")
        version = current.version
    return pl.read_parquet(_parquet(distillation, partition, version))


def remove_partitions(distillation: Distillation, found: Collection[str]) -> list[str]:
    """Takes partitions out of sight that the source no longer has, prompts and answers; their responses stay stored."""
    gone = remove_vanished(distillation, found)
    for partition in set(distillation.files.partitions(ASSET)).difference(found):
        remove_current(distillation.files.asset(ASSET, partition))
    return gone


def build_outputs(distillation: Distillation, partitions: Sequence[str], teacher: Teacher) -> OutputsBuild:
    """Answers the partitions' prompts and writes each partition's Parquet and JSONL.

    All partitions' missing requests go to the teacher together. Where it cannot finish, the partitions that
    are complete are written and the others are in `failed`.
    """
    build = OutputsBuild()
    store = ResponseStore(distillation.project.store_url)
    pending: dict[str, pl.DataFrame] = {}
    for partition in partitions:
        adopted = _adopt(distillation, partition, teacher.identity)
        if adopted is not None:
            build.partitions[partition] = adopted
        else:
            pending[partition] = _requests(distillation, partition, teacher)
    if not pending:
        return build
    problem = _ask(distillation, store, teacher, pending, build)
    for partition, requests in pending.items():
        if len(store.missing(requests["request_key"].unique())):
            build.failed[partition] = str(problem)
        else:
            build.partitions[partition] = _write(distillation, partition, requests, store, teacher.identity)
    return build


def ask_one(distillation: Distillation, messages: str) -> str:
    """The teacher's answer to one conversation, out of the store where it was given before.

    Raises:
        TeacherError: a hosted teacher could not be asked.
    """
    teacher = make_teacher(distillation, no_launch)
    prompt = pl.DataFrame({"messages": [messages], "sample": [0]})
    request = prompt.with_columns(teacher.identity.request_keys(prompt))
    store = ResponseStore(distillation.project.store_url)
    _asking(distillation, store, teacher).ask(request)
    return str(store.fetch(request["request_key"])["completion"][0])


def _asking(distillation: Distillation, store: ResponseStore, teacher: Teacher) -> Asking:
    spec = distillation.spec.teacher
    return Asking(
        store,
        teacher,
        Budget.of(distillation.name, spec.budget_usd),
        claim_size=LOCAL_CLAIM if spec.is_local else spec.concurrency,
        announce=not spec.is_local,
    )


def _ask(
    distillation: Distillation,
    store: ResponseStore,
    teacher: Teacher,
    pending: Mapping[str, pl.DataFrame],
    build: OutputsBuild,
) -> DistillError | None:
    requests = pl.concat(frame.select("request_key", "messages") for frame in pending.values())
    try:
        build.asked = _asking(distillation, store, teacher).ask(requests)
    except DistillError as error:
        return error
    return None


def _requests(distillation: Distillation, partition: str, teacher: Teacher) -> pl.DataFrame:
    prompts = read_prompts(distillation, partition)
    prompts = prompts.select("prompt_id", pl.lit(0, dtype=pl.Int32).alias("sample"), "messages")
    return prompts.with_columns(teacher.identity.request_keys(prompts))


def _adopt(distillation: Distillation, partition: str, identity: TeacherIdentity) -> OutputsPartition | None:
    """Points at the partition's build of before, where the same inputs were built once."""
    key = outputs_build_key(distillation, partition, identity)
    known = Builds(distillation.project.home).find(key) if key else None
    if known is None or not _parquet(distillation, partition, known.version).exists():
        return None
    changed = _point(distillation, partition, known)
    return OutputsPartition(partition, known.version, dict(known.summary), changed)


def _write(
    distillation: Distillation, partition: str, requests: pl.DataFrame, store: ResponseStore, identity: TeacherIdentity
) -> OutputsPartition:
    answers = store.fetch(requests["request_key"].unique())
    outputs = requests.drop("messages").join(answers, on="request_key", how="left").sort("prompt_id", "sample")
    version = frame_version(outputs, VERSION_COLUMNS)
    path = _parquet(distillation, partition, version)
    if not path.exists():
        write_file(path.with_suffix(".jsonl"), lambda aside: outputs.write_ndjson(aside))
        write_file(path, lambda aside: outputs.write_parquet(aside))
    counts = dict(outputs["status"].value_counts().iter_rows())
    summary = {
        **{str(status): int(count) for status, count in counts.items()},
        "rows": len(outputs),
        "input_tokens": int(outputs["input_tokens"].sum()),
        "output_tokens": int(outputs["output_tokens"].sum()),
        "cost_microusd": int(outputs["cost_microusd"].sum()),
    }
    key = outputs_build_key(distillation, partition, identity)
    prompts = read_current(distillation.files.asset("prompts", partition))
    if key is None or prompts is None:
        raise DistillError(f"{distillation.name}/prompts: partition {partition!r} vanished while it was being answered")
    record = BuildRecord(key, ASSET, version, {"prompts": prompts.version, "teacher": identity.digest}, summary)
    adopted = Builds(distillation.project.home).adopt(record)
    return OutputsPartition(partition, adopted.version, dict(adopted.summary), _point(distillation, partition, adopted))


def _point(distillation: Distillation, partition: str, record: BuildRecord) -> bool:
    folder = distillation.files.asset(ASSET, partition)
    return write_current(folder, Current(record.version, record.build_key))


def _parquet(distillation: Distillation, partition: str, version: str) -> Path:
    return distillation.files.asset(ASSET, partition) / f"{version}.parquet"
