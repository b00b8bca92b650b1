"""The `golden_set` stage: reads the verified rows, renders them as the prompts are, and stores them as a version."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.errors import DistillError, SourceError, StorageError
from distill_dagster.golden.rows import FLAGS, read_flags
from distill_dagster.lineage.hashing import frame_version
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import build_prompts
from distill_dagster.prompts.partitions import ALL
from distill_dagster.spec.golden import GoldenSetSpec
from distill_dagster.spec.prompts import PromptsSpec, SourceSpec
from distill_dagster.storage import Current, read_current, write_current, write_file

ASSET = "golden_set"
GOLDEN_SCHEMA = {
    "prompt_id": pl.String,
    "group_id": pl.String,
    "messages": pl.String,
    "student_messages": pl.String,
    "text": pl.String,
    "reference": pl.String,
    **FLAGS,
}


@dataclass(frozen=True)
class GoldenBuild:
    """A golden set.

    Attributes:
        frame: GOLDEN columns, sorted by prompt_id.
        version: content hash of the rows.
        changed: whether readers see another version than before.
    """

    frame: pl.DataFrame
    version: str
    changed: bool

    @property
    def unverified(self) -> int:
        """Rows that no person has checked; they decide nothing."""
        return len(self.frame) - int(self.frame["verified"].sum())


def build_golden_set(distillation: Distillation) -> GoldenBuild:
    """Reads the declared golden set, stores it, and points readers at it.

    Raises:
        SourceError: the source cannot be read, or a row lacks a prompt, a reference or its flag.
        TemplateError: the prompt reads a column that the golden rows have not.
    """
    frame = declared_golden_rows(distillation)
    version = _version(frame)
    path = _file(distillation, version)
    if not path.exists():
        write_file(path, lambda aside: frame.write_parquet(aside))
    changed = write_current(distillation.files.asset(ASSET), Current(version))
    return GoldenBuild(frame, version, changed)


def golden_current(distillation: Distillation) -> bool:
    """Whether the stored golden set is what its source has now; True where none is declared.

    Raises:
        SourceError, TemplateError: as for `build_golden_set`.
    """
    declared = declared_golden_version(distillation)
    if declared is None:
        return True
    return golden_version(distillation) == declared and _file(distillation, declared).exists()


def declared_golden_version(distillation: Distillation) -> str | None:
    """The version that the source has now; None where no golden set is declared.

    Raises:
        SourceError, TemplateError: as for `build_golden_set`.
    """
    return None if distillation.spec.golden_set is None else _version(declared_golden_rows(distillation))


def golden_version(distillation: Distillation) -> str | None:
    """The version that readers see; None where none is declared or stored."""
    if distillation.spec.golden_set is None:
        return None
    current = read_current(distillation.files.asset(ASSET))
    return current.version if current is not None else None


def read_golden_set(distillation: Distillation, version: str) -> pl.DataFrame:
    """A stored golden set: GOLDEN columns, sorted by prompt_id.

    Raises:
        StorageError: its file is gone.
    """
    path = _file(distillation, version)
    if not path.is_file():
        raise StorageError(f"{path}: missing; materialise `golden_set` again")
    return pl.read_parquet(path)


def declared_golden_rows(distillation: Distillation) -> pl.DataFrame:
    """GOLDEN columns of what the source has now, sorted by prompt_id; nothing is stored.

    Raises:
        SourceError, TemplateError: as for `build_golden_set`.
    """
    declared = distillation.spec.golden_set
    if declared is None:
        raise SourceError(
            f"{distillation.name}: no golden set is declared; write e.g. `golden_set: {{jsonl: golden.jsonl}}`"
        )
    asked = _as_prompts(distillation.spec.prompts, declared)
    spec = distillation.spec.model_copy(update={"prompts": asked})
    try:
        flags = read_flags(asked, declared, distillation.folder, distillation.project.root)
        built = build_prompts(dataclasses.replace(distillation, spec=spec), reuse=False)
    except DistillError as error:
        raise type(error)(_renamed(str(error))) from error
    if built.failed:
        raise SourceError(_renamed("\n".join(built.failed.values())))
    prompts = built.partitions[ALL].frame
    return prompts.join(flags, on="row_hash", how="left").select(list(GOLDEN_SCHEMA)).sort("prompt_id")


def _as_prompts(prompts: PromptsSpec, golden: GoldenSetSpec) -> PromptsSpec:
    """The `prompts:` block that reads the golden rows: the same template, system prompt and examples."""
    changes = {
        "source": SourceSpec.model_validate({golden.kind: golden.value}),
        "reference": golden.reference,
        "id": None,
        "group": golden.group,
        "partition": None,
        "on_bad_row": "fail",
    }
    return prompts.model_copy(update=changes)


def _renamed(message: str) -> str:
    """A message about the rows' source in the words of the block that the user wrote."""
    named = message.replace("prompts.source", "golden_set").replace("prompts.reference", "golden_set.reference")
    return named if named.startswith("golden_set") else f"golden_set: {named}"


def _version(frame: pl.DataFrame) -> str:
    return frame_version(frame, list(GOLDEN_SCHEMA))


def _file(distillation: Distillation, version: str) -> Path:
    return distillation.files.asset(ASSET) / f"{version}.parquet"
