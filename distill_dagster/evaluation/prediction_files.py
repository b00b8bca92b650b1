"""Predictions on disk, made once for each model and kept: `<distillation>/predictions/<key>/`.

The key hashes all that decides them: the model, the rows as they are read, how answers are decoded, and the teacher
that fidelity is measured against. Evaluations of several students so share their base, the teacher and one another.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from distill_dagster.errors import StorageError
from distill_dagster.jobs import RESULT_FILE, ModelResult, Prediction, PredictModel
from distill_dagster.lineage.builds import build_key
from distill_dagster.lineage.manifests import Manifest, altered_files, spec_hash, write_manifest
from distill_dagster.project import Distillation
from distill_dagster.storage import new_folder, read_json

FOLDER = "predictions"
STAGE_NUMBER = 2
GENERATED_FILE = "generated.parquet"
FIDELITY_FILE = "fidelity.parquet"
BASELINES_FILE = "baselines.parquet"
_T = TypeVar("_T")
ANSWERED_COLUMNS = ("prompt_id", "sample", "messages", "teacher_messages", "completion_ids")
READ_COLUMNS = (*ANSWERED_COLUMNS, "completion")
"""What decides a prediction, without and with reading the teacher's answers."""


@dataclass(frozen=True)
class Wanted:
    """A prediction that an evaluation needs.

    Attributes:
        system: whose it is in the report.
        prediction: what the worker is to do; names the folder.
        inputs: versions behind it, by name.
        settings: what else decides it.
    """

    system: str
    prediction: Prediction
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        system: str,
        model: PredictModel,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any],
        max_length: int | None = None,
    ) -> "Wanted":
        """With the key that model, inputs and settings come to."""
        decided = {**settings, "dtype": model.dtype, "generate": model.generate, "max_length": max_length}
        key = build_key("prediction", STAGE_NUMBER, inputs, decided)
        return cls(system, Prediction(key=key, model=model, max_length=max_length), inputs, decided)


@dataclass(frozen=True)
class Predicted:
    """What all models of an evaluation did on the test rows.

    Attributes:
        generated: answers, with the column `model` (GENERATED columns).
        fidelity: teacher-forced agreement of models and count baselines, with `model`; None where nothing was read.
        results: sizes and speeds by system.
    """

    generated: pl.DataFrame
    fidelity: pl.DataFrame | None
    results: Mapping[str, ModelResult]


def prediction_folder(distillation: Distillation, key: str) -> Path:
    """Where a prediction lies once it is published."""
    return distillation.files.asset(FOLDER) / key


def missing(distillation: Distillation, wanted: Iterable[Wanted]) -> list[Wanted]:
    """Those that are not stored; see `torn_or_missing`."""
    return torn_or_missing(distillation.files.asset(FOLDER), wanted, lambda one: one.prediction.key)


def torn_or_missing(home: Path, wanted: Iterable[_T], key: Callable[[_T], str]) -> list[_T]:
    """Those without a folder `home/<key>`, one of each key; a folder with a torn or missing file is removed first."""
    found: dict[str, _T] = {}
    for one in wanted:
        folder = home / key(one)
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            found.setdefault(key(one), one)
    return list(found.values())


def is_whole(folder: Path) -> bool:
    """Whether a published folder is there with a result, and every file as its manifest says."""
    try:
        return (folder / RESULT_FILE).is_file() and not altered_files(folder)
    except (StorageError, OSError, KeyError):
        return False


def publish_finished(distillation: Distillation, wanted: Iterable[Wanted], work: Path) -> None:
    """Moves what the worker has finished in `work` to where it stays; what is stored already is left alone."""
    for one in wanted:
        key = one.prediction.key
        source, target = work / key, prediction_folder(distillation, key)
        if not source.is_dir() or target.exists():
            continue
        with new_folder(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            write_manifest(folder, _manifest(distillation, one))


def read_predictions(distillation: Distillation, wanted: Iterable[Wanted]) -> Predicted:
    """All predictions together, each under its system's name.

    Raises:
        StorageError: one is not stored.
    """
    generated, fidelity = [], []
    results = {}
    for one in wanted:
        folder = prediction_folder(distillation, one.prediction.key)
        results[one.system] = ModelResult.model_validate(read_json(folder / RESULT_FILE))
        named = pl.lit(one.system).alias("model")
        if (folder / GENERATED_FILE).exists():
            generated.append(pl.read_parquet(folder / GENERATED_FILE).with_columns(named))
        if (folder / FIDELITY_FILE).exists():
            fidelity.append(pl.read_parquet(folder / FIDELITY_FILE).with_columns(named))
        if (folder / BASELINES_FILE).exists():
            fidelity.append(pl.read_parquet(folder / BASELINES_FILE))
    measured = pl.concat(fidelity, how="diagonal") if fidelity else None
    return Predicted(pl.concat(generated), measured, results)


def _manifest(distillation: Distillation, wanted: Wanted) -> Manifest:
    return Manifest(
        distillation=distillation.name,
        asset="prediction",
        version=wanted.prediction.key,
        build_key=wanted.prediction.key,
        inputs=wanted.inputs,
        spec_hash=spec_hash(distillation.spec),
        details={"model": wanted.prediction.model.name, "settings": dict(wanted.settings)},
    )
