"""The stored evaluations of a distillation: every version of every student, and what each is called."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from distill_dagster.errors import EvaluationError, StorageError
from distill_dagster.evaluation.across.stored_report import StoredReport
from distill_dagster.evaluation.harness_files import FOLDER as HARNESS
from distill_dagster.evaluation.harness_files import SAMPLES_FILE
from distill_dagster.evaluation.model import System
from distill_dagster.evaluation.write import JUDGEMENTS_FILE, PREDICTIONS_FILE, REPORT_HTML_FILE, REPORT_JSON_FILE
from distill_dagster.lineage.manifests import MANIFEST_FILE, read_manifest
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import Split
from distill_dagster.storage import read_current, read_json

CURRENT = "current"
SHORT = 8


@dataclass(frozen=True)
class StoredOutcome:
    """What a model reached in the harness's tasks, row by row.

    Attributes:
        tasks: hash of all files that decide the tasks.
        samples: SAMPLES_SCHEMA columns.
    """

    tasks: str
    samples: pl.DataFrame


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation on disk.

    Attributes:
        current: whether readers of the student's evaluation see this one.
        written_at: when it was published here; no part of the evaluation itself.
        base: digest of the student's base.
    """

    student: str
    version: str
    folder: Path
    current: bool
    written_at: datetime
    base: str | None
    code_version: str
    report: StoredReport

    @property
    def name(self) -> str:
        """`sft@78658e09`: how it is called here, and what finds it again."""
        return f"{self.student}@{self.version[:SHORT]}"

    @property
    def report_path(self) -> Path:
        """Its page."""
        return self.folder / REPORT_HTML_FILE

    def predictions(self, split: Split = Split.TEST) -> pl.DataFrame:
        """Its rows of a split; files without `split` have those of the test split alone.

        Raises:
            StorageError: the file is missing or torn.
        """
        rows = _rows(self.folder / PREDICTIONS_FILE)
        if "split" not in rows.columns:
            rows = rows.with_columns(split=pl.lit(Split.TEST.value))
        return rows.filter(pl.col("split") == split.value)

    def judgements(self) -> pl.DataFrame:
        """Its judge's verdicts, two rows a pair (see `judgement_rows`).

        Raises:
            StorageError: the file is missing or torn.
        """
        return _rows(self.folder / JUDGEMENTS_FILE)

    def outcome(self) -> StoredOutcome | None:
        """The student's rows in the harness's tasks; None where its outcome is not named or not stored."""
        key = read_manifest(self.folder)["inputs"].get(f"{HARNESS}/{System.STUDENT}")
        folder = self.folder.parents[2] / HARNESS / str(key)
        if key is None or not (folder / SAMPLES_FILE).is_file():
            return None
        return StoredOutcome(read_manifest(folder)["inputs"]["tasks"], _rows(folder / SAMPLES_FILE))


def stored_evaluations(distillation: Distillation) -> list[StoredEvaluation]:
    """All of them, oldest first.

    Raises:
        StorageError: one cannot be read.
    """
    folders = [
        manifest.parent
        for manifest in distillation.files.asset("evaluations").glob(f"*/*/{MANIFEST_FILE}")
        if not manifest.parent.name.startswith(".")  # not published yet
    ]
    return sorted(map(_read, folders), key=lambda one: (one.written_at, one.student, one.version))


def find_evaluation(distillation: Distillation, reference: str) -> StoredEvaluation:
    """The evaluation that `student`, `student@current` or `student@version` names.

    A version may be cut short; it is the evaluation's, or that of the student's weights.

    Raises:
        EvaluationError: there is none, or more than one.
        StorageError: an evaluation cannot be read.
    """
    name = distillation.name
    student, _, version = reference.partition("@")
    stored = stored_evaluations(distillation)
    own = [one for one in stored if one.student == student]
    if not own:
        raise EvaluationError(
            f"{name}: no stored evaluation of {student!r} (stored: {_told(stored)}); `distill run {name}` makes "
            "those of the declared students"
        )
    if version in ("", CURRENT):
        found, which = [one for one in own if one.current], "is the current one"
    else:
        found, which = [one for one in own if _is_called(one, version)], f"begins with {version!r}"
    if len(found) == 1:
        return found[0]
    if found:
        raise EvaluationError(f"{name}: more than one evaluation of {student!r} {which}; write more of {_told(found)}")
    raise EvaluationError(f"{name}: no evaluation of {student!r} {which}; write one of {_told(own)}")


def _rows(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); materialise the evaluation again") from None


def _read(folder: Path) -> StoredEvaluation:
    manifest = read_manifest(folder)
    current = read_current(folder.parent)
    path = folder / REPORT_JSON_FILE
    try:
        report = StoredReport.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(f"{path}: not a report ({where}: {first['msg']}); remove its folder") from None
    return StoredEvaluation(
        student=folder.parent.name,
        version=folder.name,
        folder=folder,
        current=current is not None and current.version == folder.name,
        written_at=datetime.fromtimestamp((folder / MANIFEST_FILE).stat().st_mtime, UTC),
        base=manifest["inputs"].get("base"),
        code_version=manifest["code_version"],
        report=report,
    )


def _is_called(one: StoredEvaluation, version: str) -> bool:
    return one.version.startswith(version) or one.report.identity.versions.student.startswith(version)


def _told(stored: list[StoredEvaluation]) -> str:
    return ", ".join(map(_one_told, stored)) or "none"


def _one_told(one: StoredEvaluation) -> str:
    student = f"student {one.report.identity.versions.student[:SHORT]}"
    return f"{one.name} ({'current, ' if one.current else ''}{student})"
