"""What each asset shows in Dagster: counts, schemas, previews where allowed."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import polars as pl

from distill_dagster.dataset.build import ASSET, DatasetBuild
from distill_dagster.evaluation.build import EvaluationBuild
from distill_dagster.evaluation.formatting import parameters, size
from distill_dagster.evaluation.gate_view import banner
from distill_dagster.evaluation.model import System
from distill_dagster.graph.columns import column_lineage
from distill_dagster.logits.build import LogitsBuild, LogitsPartition
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import PartitionPrompts
from distill_dagster.students.build import StudentBuild
from distill_dagster.students.card import MEASURES, model_card_text
from distill_dagster.teachers.asking.asking import Asked
from distill_dagster.teachers.outputs import OutputsPartition
from distill_dagster.teachers.store.budget import MICRO
from distill_dagster.teachers.store.spending import Paid

SAMPLE_ROWS = 5
SAMPLE_CHARS = 120
SENTENCE_CHARS = 48

Metadata = dict[str, dg.MetadataValue]


def prompts_metadata(distillation: Distillation, prompts: PartitionPrompts) -> Metadata:
    """Rows, duplicates, skipped rows and splits of a partition's prompts."""
    splits = dict(prompts.frame["split"].value_counts().iter_rows())
    metadata: Metadata = {
        "dagster/row_count": dg.MetadataValue.int(prompts.rows),
        "duplicate rows": dg.MetadataValue.int(prompts.duplicate_rows),
        "skipped rows": dg.MetadataValue.int(len(prompts.skipped)),
    }
    if prompts.forgotten:
        metadata["forgotten rows"] = dg.MetadataValue.int(prompts.forgotten)
    dealt = ["held_out"] if "held_out" in splits else ["train", "validation", "test"]
    metadata |= {f"{name.replace('_', '-')} prompts": dg.MetadataValue.int(splits.get(name, 0)) for name in dealt}
    return metadata | sample(distillation, prompts.frame.select("text", "reference"))


def outputs_metadata(distillation: Distillation, outputs: OutputsPartition, frame: pl.DataFrame) -> Metadata:
    """How a partition's answers ended, their tokens and their cost."""
    counts = dict(outputs.counts)
    cost = counts.pop("cost_microusd", 0)
    metadata: Metadata = {"dagster/row_count": dg.MetadataValue.int(counts.pop("rows", 0))}
    metadata |= {name.replace("_", " "): dg.MetadataValue.int(count) for name, count in sorted(counts.items())}
    if not distillation.spec.teacher.is_local:
        metadata["cost USD"] = dg.MetadataValue.float(cost / MICRO)
    return metadata | sample(distillation, frame.select("completion", "stop_reason"))


def asked_observation(
    key: dg.AssetKey, asked: Asked, paid: Paid | None, planned: int | None = None
) -> dg.AssetObservation:
    """What one run asked and collected, and what that cost.

    Args:
        paid: what the accounts say; None for a local teacher.
        planned: the calls that its plan counted; None where there was no plan.
    """
    collected = max(0, paid.answers - asked.answered) if paid else 0
    new = asked.answered + collected
    metadata: Metadata = {"answers of this run": dg.MetadataValue.int(new)}
    if asked.needed:  # unknown where the run was cut short
        metadata["answers stored before"] = dg.MetadataValue.int(max(0, asked.stored - collected))
    of_plan = ""
    if planned is not None:
        # What travels in a batch is made; of a run that was cut short only the accounts know.
        made = asked.answered + asked.in_batches if asked.needed else new
        metadata |= {
            "teacher calls planned": dg.MetadataValue.int(planned),
            "teacher calls made": dg.MetadataValue.int(made),
        }
        of_plan = f", {made:,} of {planned:,} planned calls made"
    if paid is None:
        return dg.AssetObservation(key, description=f"{new:,} answers in this run{of_plan}", metadata=metadata)
    cost = paid.cost_microusd / MICRO
    metadata["cost USD of this run"] = dg.MetadataValue.float(cost)
    description = f"{new:,} answers for ${cost:,.4f} in this run{of_plan}"
    return dg.AssetObservation(key, description=description, metadata=metadata)


def logits_metadata(logits: LogitsPartition) -> Metadata:
    """Captured sequences, tokens and bytes of a partition."""
    counts = logits.counts
    metadata: Metadata = {
        "dagster/row_count": dg.MetadataValue.int(int(counts["sequences"])),
        "tokens": dg.MetadataValue.int(int(counts["tokens"])),
        "size": dg.MetadataValue.text(size(counts["bytes"])),
        "bytes": dg.MetadataValue.int(int(counts["bytes"])),
        "bytes of kept hidden states": dg.MetadataValue.int(int(counts["hidden_bytes"])),
    }
    if counts["tokens"]:
        metadata["bytes per token"] = dg.MetadataValue.float(round(counts["bytes"] / counts["tokens"], 1))
    return metadata


def captured_observation(key: dg.AssetKey, build: LogitsBuild) -> dg.AssetObservation:
    """What one run captured."""
    return dg.AssetObservation(
        key,
        description=f"{build.sequences:,} completions of {build.tokens:,} tokens captured in this run",
        metadata={
            "completions captured in this run": dg.MetadataValue.int(build.sequences),
            "tokens captured in this run": dg.MetadataValue.int(build.tokens),
        },
    )


def waiting_observation(key: dg.AssetKey, waiting: Mapping[str, int]) -> dg.AssetObservation:
    """Partitions whose answers are in provider batches, and how many."""
    answers = sum(waiting.values())
    return dg.AssetObservation(
        key,
        description=f"{answers:,} answers are in provider batches; the sensor collects them",
        metadata={
            "answers in provider batches": dg.MetadataValue.int(answers),
            "partitions waiting": dg.MetadataValue.json(dict(waiting)),
        },
    )


def dataset_metadata(distillation: Distillation, build: DatasetBuild, train: pl.DataFrame) -> Metadata:
    """Rows of each split and dropped rows by reason."""
    order = [split for split in ("train", "validation", "test", "held_out") if split in build.split_counts]
    metadata: Metadata = {f"{split} rows": dg.MetadataValue.int(build.split_counts[split]) for split in order}
    metadata["dagster/row_count"] = dg.MetadataValue.int(sum(build.split_counts.values()))
    metadata |= {
        f"dropped: {reason}": dg.MetadataValue.int(count) for reason, count in sorted(build.drop_counts.items())
    }
    if build.missing:
        metadata["partitions left out"] = dg.MetadataValue.text(", ".join(build.missing))
    metadata["version"] = dg.MetadataValue.text(build.version)
    metadata |= column_lineage(distillation.name, ASSET)
    return metadata | sample(distillation, train.select("text", "completion"))


def student_metadata(build: StudentBuild) -> Metadata:
    """Rows, steps, losses and size of a student, and what its teacher's answers cost."""
    result = build.result
    metadata: Metadata = {
        "rows trained": dg.MetadataValue.int(result.rows_trained),
        "rows over max_length": dg.MetadataValue.int(result.rows_over_length),
        "rows with nothing to learn from": dg.MetadataValue.int(result.rows_without_target),
        "steps": dg.MetadataValue.int(result.steps),
        "kept after step": dg.MetadataValue.int(result.best_step),
        "parameters": dg.MetadataValue.int(result.parameters),
        "size": dg.MetadataValue.text(f"{parameters(result.parameters)} parameters"),
        "train loss": _rounded(result.train_loss),
        "checkpoint": dg.MetadataValue.path(build.folder),
        "trained in this run": dg.MetadataValue.bool(build.trained),
    }
    if result.validation_loss is not None:
        metadata["validation loss"] = _rounded(result.validation_loss)
        metadata["validation loss is"] = dg.MetadataValue.text(MEASURES[result.validation_measure])
    if build.teacher_cost_microusd is not None:
        metadata["teacher cost USD"] = dg.MetadataValue.float(build.teacher_cost_microusd / MICRO)
    return metadata | {"model card": dg.MetadataValue.md(model_card_text(build.folder))}


def report_metadata(distillation: Distillation, build: EvaluationBuild) -> Metadata:
    """The verdict and the first finding, then headlines, table and picture, and where the report lies."""
    report = build.report()
    metadata: Metadata = {"release gate": dg.MetadataValue.text(banner(report.gate).word.lower())}
    if report.headlines:
        metadata["finding"] = sentence(report.headlines[0])
    metadata |= {
        "summary": dg.MetadataValue.md(build.markdown()),
        "test rows": dg.MetadataValue.int(report.counts.test_rows),
        "report": dg.MetadataValue.path(build.report_path),
    }
    metadata |= link(distillation, build.report_path)
    for against, measures in (("reference", report.quality), ("teacher", report.fidelity)):
        for measure in measures:
            value = measure.systems[System.STUDENT].value
            if value is not None:
                metadata[f"student {measure.label} vs {against}"] = _rounded(value)
    return metadata


def calls_metadata(made: Mapping[str, int], planned: Mapping[str, int] | None) -> Metadata:
    """Calls beside those for answers to prompts, by name: those made, and where there is a plan those planned."""
    metadata: Metadata = {}
    for name, most in (planned or {}).items():
        metadata[f"{name} planned"] = dg.MetadataValue.int(most)
        metadata[f"{name} made"] = dg.MetadataValue.int(made.get(name, 0))
    for name, count in made.items():
        if count:
            metadata[f"{name} made"] = dg.MetadataValue.int(count)
    return metadata


def sentence(text: str) -> dg.MetadataValue:
    """A sentence in short lines: a path in the same table makes its column too wide to be seen whole."""
    lines = textwrap.wrap(text.replace("<", "&lt;"), SENTENCE_CHARS, break_long_words=False)
    return dg.MetadataValue.md("  \n".join(lines))


def link(distillation: Distillation, page: Path) -> Metadata:
    """A link to a page in `DISTILL_HOME`, where `DISTILL_HOME_URL` says that a web server shows that folder.

    Browsers follow no link from a web page to a file.
    """
    base = os.environ.get("DISTILL_HOME_URL")
    if not base:
        return {}
    path = quote(page.relative_to(distillation.project.home).as_posix())
    return {"report link": dg.MetadataValue.url(f"{base.rstrip('/')}/{path}")}


def sample(distillation: Distillation, frame: pl.DataFrame) -> Metadata:
    """A few rows, where the declaration allows text in Dagster's event log."""
    if not distillation.spec.ui_samples or frame.is_empty():
        return {}
    rows = [" | ".join(_cell(value) for value in row) for row in frame.head(SAMPLE_ROWS).iter_rows()]
    header = " | ".join(frame.columns)
    rule = " | ".join("---" for _ in frame.columns)
    lines = [f"| {line} |" for line in (header, rule, *rows)]
    return {"sample": dg.MetadataValue.md("\n".join(lines))}


def _rounded(value: float) -> dg.MetadataValue:
    return dg.MetadataValue.float(round(value, 4))


def _cell(value: object) -> str:
    text = " ".join(str(value if value is not None else "–").split())
    shown = text if len(text) <= SAMPLE_CHARS else f"{text[:SAMPLE_CHARS]}…"
    return shown.replace("|", "\\|").replace("<", "&lt;")
