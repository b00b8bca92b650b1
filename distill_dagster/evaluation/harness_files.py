"""What the harness found out of each model, on disk: made once and kept in `<distillation>/harness/<key>/`."""

import importlib.metadata
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.prediction_files import torn_or_missing
from distill_dagster.jobs import RESULT_FILE, HarnessResult, HarnessRun, PredictModel
from distill_dagster.lineage.builds import build_key
from distill_dagster.lineage.manifests import Manifest, spec_hash, write_manifest
from distill_dagster.project import Distillation
from distill_dagster.storage import new_folder, read_json

FOLDER = "harness"
STAGE_NUMBER = 1
SAMPLES_FILE = "samples.parquet"
SAMPLES_SCHEMA = {
    "task": pl.String(),
    "metric": pl.String(),
    "filter": pl.String(),
    "doc_id": pl.Int64(),
    "score": pl.Float64(),
}


@dataclass(frozen=True)
class HarnessWanted:
    """What an evaluation needs of one model.

    Attributes:
        system: whose it is in the report.
        run: what the worker is to do; names the folder.
        inputs: versions behind it, by name: the model and the tasks.
        settings: what else decides it.
    """

    system: str
    run: HarnessRun
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, system: str, model: PredictModel, inputs: Mapping[str, str], settings: Mapping[str, Any]
    ) -> "HarnessWanted":
        """With the key that model, inputs and settings come to."""
        decided = {**settings, "dtype": model.dtype}
        key = build_key(FOLDER, STAGE_NUMBER, inputs, decided)
        return cls(system, HarnessRun(key=key, model=model), inputs, decided)


@dataclass(frozen=True)
class HarnessOutcome:
    """What one model reached: the harness's own numbers, and the rows behind them (SAMPLES_SCHEMA)."""

    result: HarnessResult
    samples: pl.DataFrame


def harness_version() -> str:
    """Version of the installed lm-evaluation-harness.

    Raises:
        EvaluationError: there is none.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise EvaluationError(
            "evaluation.harness needs an extra package: pip install 'distill-dagster[harness]'"
        ) from None


def harness_folder(distillation: Distillation, key: str) -> Path:
    """Where a model's outcome lies once it is published."""
    return distillation.files.asset(FOLDER) / key


def outcome_inputs(outcomes: Mapping[str, str]) -> dict[str, str]:
    """How an evaluation's manifest names its outcomes among its inputs: `harness/<system>` and the key.

    Args:
        outcomes: keys by system.
    """
    return {f"{FOLDER}/{system}": key for system, key in outcomes.items()}


def missing_outcomes(distillation: Distillation, wanted: Iterable[HarnessWanted]) -> list[HarnessWanted]:
    """Those that are not stored; see `torn_or_missing`."""
    return torn_or_missing(distillation.files.asset(FOLDER), wanted, lambda one: one.run.key)


def publish_outcomes(distillation: Distillation, wanted: Iterable[HarnessWanted], work: Path) -> None:
    """Moves what the worker has finished in `work` to where it stays; what is stored already is left alone."""
    for one in wanted:
        source, target = work / one.run.key, harness_folder(distillation, one.run.key)
        if not source.is_dir() or target.exists():
            continue
        with new_folder(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            manifest = Manifest(
                distillation=distillation.name,
                asset=FOLDER,
                version=one.run.key,
                build_key=one.run.key,
                inputs=one.inputs,
                spec_hash=spec_hash(distillation.spec),
                details={"model": one.run.model.name, "settings": dict(one.settings)},
            )
            write_manifest(folder, manifest)


def read_outcomes(distillation: Distillation, wanted: Iterable[HarnessWanted]) -> dict[str, HarnessOutcome]:
    """All outcomes by system.

    Raises:
        StorageError: one is not stored.
    """
    outcomes = {}
    for one in wanted:
        folder = harness_folder(distillation, one.run.key)
        result = HarnessResult.model_validate(read_json(folder / RESULT_FILE))
        outcomes[one.system] = HarnessOutcome(result, pl.read_parquet(folder / SAMPLES_FILE))
    return outcomes
