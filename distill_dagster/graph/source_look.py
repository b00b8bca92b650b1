"""Reads a source that may have changed, and says which partitions' prompts are no longer those on disk.

A small source is read in the sensor's tick. A large one, for which a tick is too short, is read by a run of
`<distillation>_look`, and the next tick finds what it found.
"""

import time
from collections.abc import Mapping

import dagster as dg
from pydantic import BaseModel, ConfigDict

from distill_dagster.graph.failures import as_failure
from distill_dagster.graph.keys import DISTILLATION_TAG
from distill_dagster.graph.partitions import register
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.fingerprint import Fingerprint
from distill_dagster.prompts.store import ASSET, prompts_version
from distill_dagster.storage import read_json, write_json
from distill_dagster.teachers.outputs import remove_partitions

# A tick has 60 s, and a changed template takes about three times as long as changed rows.
QUICK_S = 10.0
QUICK_BYTES = {"jsonl": 4 * 2**20, "csv": 4 * 2**20, "parquet": 2**19}


class Look(BaseModel):
    """What one reading of the source found.

    Attributes:
        fingerprint: digest of the source as it was before it was read.
        changed: the version that the prompts of each changed partition are going to have.
        failed: partitions with bad rows, which a run will name.
        removed: partitions that the source no longer has.
        seconds, bytes: how long reading took, and the size of the files known to be read.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    changed: Mapping[str, str]
    failed: tuple[str, ...]
    removed: tuple[str, ...]
    seconds: float
    bytes: int


class LookConfig(dg.Config):
    """Which state of the source a run is to read.

    Attributes:
        fingerprint: its digest.
        bytes: size of the files known to be read.
    """

    fingerprint: str
    bytes: int


def look(distillation: Distillation, instance: dg.DagsterInstance, fingerprint: str, size: int) -> Look:
    """Reads the source, makes the instance's partitions those it has, and keeps what it found on disk.

    Raises:
        DistillError: the source cannot be read at all.
    """
    started = time.monotonic()
    build = build_prompts(distillation)
    removed: list[str] = []
    if build.is_complete:
        register(distillation, instance, list(build.names))
        removed = remove_partitions(distillation, build.names)
    found = Look(
        fingerprint=fingerprint,
        changed={
            name: made.version
            for name, made in build.partitions.items()
            if prompts_version(distillation, name) != made.version
        },
        failed=tuple(sorted(build.failed)),
        removed=tuple(removed),
        seconds=round(time.monotonic() - started, 3),
        bytes=size,
    )
    write_json(distillation.files.asset(ASSET) / "look.json", found.model_dump(mode="json"))
    return found


def last_look(distillation: Distillation) -> Look | None:
    """What the last reading found, if there was one."""
    path = distillation.files.asset(ASSET) / "look.json"
    return Look.model_validate(read_json(path)) if path.is_file() else None


def is_quick(distillation: Distillation, fingerprint: Fingerprint, last: Look | None) -> bool:
    """Whether reading the source fits well into a tick, from its size and how long it took last time."""
    if last is not None:
        growth = fingerprint.bytes / last.bytes if last.bytes else 1.0
        return last.seconds * max(1.0, growth) <= QUICK_S
    limit = QUICK_BYTES.get(distillation.spec.prompts.source.kind)
    return limit is not None and fingerprint.bytes <= limit


def look_name(distillation: str) -> str:
    """Name of the job that reads a large source."""
    return f"{distillation}_look"


def look_job(distillation: Distillation) -> dg.JobDefinition:
    """The job that reads a source for the sensor; it makes no asset."""

    @dg.op(name=f"{look_name(distillation.name)}_op")
    def read_source(context: dg.OpExecutionContext, config: LookConfig) -> None:
        with as_failure():
            found = look(distillation, context.instance, config.fingerprint, config.bytes)
        context.log.info(f"{len(found.changed)} partitions changed, {len(found.failed)} have bad rows")

    @dg.job(
        name=look_name(distillation.name),
        tags={DISTILLATION_TAG: distillation.name},
        description="Finds out which partitions of a large source have changed.",
    )
    def looking() -> None:
        read_source()

    return looking


def look_config(distillation: str, fingerprint: Fingerprint) -> dict[str, object]:
    """Run config of the job."""
    config = {"fingerprint": fingerprint.digest, "bytes": fingerprint.bytes}
    return {"ops": {f"{look_name(distillation)}_op": {"config": config}}}
