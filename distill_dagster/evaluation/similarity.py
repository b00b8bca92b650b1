"""Embedding similarity in an evaluation: the pairs of texts to compare, and what the worker finds of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.declared_metrics import Similarities
from distill_dagster.evaluation.predictions import KEY
from distill_dagster.jobs import EmbedJob, ModelRef
from distill_dagster.lineage.model_folder import find_model, local_model
from distill_dagster.project import Distillation
from distill_dagster.spec.evaluation import EvaluationSpec
from distill_dagster.spec.metrics import MetricSpec, metric_name
from distill_dagster.storage import write_file
from distill_dagster.worker_process import Launch, run_job

SIMILARITIES_FILE = "similarities.parquet"
PAIRS_FILE = "pairs.parquet"


def find_embedders(distillation: Distillation) -> dict[str, Path]:
    """Folders of the declared embedding models by the metric's name; a hub model is downloaded once.

    Raises:
        EvaluationError: a hub model without a revision.
        TeacherError: a model is found nowhere.
    """
    return {name: _find(distillation, name, entry) for name, entry in _declared(distillation.spec.evaluation)}


def measure_similarities(
    embedders: Mapping[str, Path], pairs: pl.DataFrame, work: Path, launch: Launch
) -> dict[str, Similarities]:
    """What each embedding model makes of the pairs, by the metric's name.

    Args:
        embedders: folders by the metric's name.
        pairs: `left` and `right`, texts.
        work: scratch.
        launch: how the worker is started, once for each model.
    """
    found: dict[str, Similarities] = {}
    for name, folder in embedders.items():
        out = work / "similarities" / name
        write_file(out / PAIRS_FILE, lambda aside: pairs.write_parquet(aside))
        run_job(EmbedJob(model=ModelRef(source=str(folder)), pairs=out / PAIRS_FILE, out=out), launch)
        scored = pl.read_parquet(out / SIMILARITIES_FILE)
        found[name] = {(left, right): score for left, right, score in scored.iter_rows()}
    return found


def text_pairs(answered: Iterable[tuple[pl.DataFrame, pl.DataFrame]]) -> pl.DataFrame:
    """Each text that is scored with what it is compared with, once: `left` and `right`, sorted.

    Args:
        answered: rows (DATASET columns) and what models answered to them (GENERATED columns).
    """
    frames = []
    for rows, generated in answered:
        targets = rows.select(*KEY, "completion", "reference")
        said = generated.select(*KEY, left="prediction").join(targets, on=KEY)
        frames.append(targets.select(left="completion", right="reference"))
        frames += [said.select("left", right=target) for target in ("completion", "reference")]
    return pl.concat(frames).drop_nulls().unique().sort("left", "right")


def _declared(spec: EvaluationSpec) -> list[tuple[str, MetricSpec]]:
    blocks = (entry for entry in spec.metrics if isinstance(entry, MetricSpec))
    return [(metric_name(entry), entry) for entry in blocks if entry.embedding_similarity is not None]


def _find(distillation: Distillation, name: str, entry: MetricSpec) -> Path:
    model = str(entry.embedding_similarity)
    found = local_model(distillation.folder, distillation.project.root, model)
    if found is not None:
        return found
    if entry.revision is None and model.count("/") == 1:
        raise EvaluationError(
            f"evaluation.metrics: {name}: {model!r} is no folder here, and a model of the hub needs `revision`, the "
            "commit whose weights count"
        )
    return find_model(distillation, model, entry.revision)
