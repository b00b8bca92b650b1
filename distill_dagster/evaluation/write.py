"""Writes an evaluation's files into a folder: the predictions, the report as data and as a page, the timings."""

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl

from distill_dagster.evaluation.cost import answer_costs
from distill_dagster.evaluation.declared_metrics import open_metrics
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.judged import judgement_rows
from distill_dagster.evaluation.model import EvaluationReport, System, companion
from distill_dagster.evaluation.predictions import GOLDEN, build_predictions
from distill_dagster.evaluation.report import Measurements, render_html
from distill_dagster.evaluation.score import evaluate
from distill_dagster.lineage.hashing import VERSION_HEX_CHARS, digest, frame_version
from distill_dagster.prompts.splits import Split
from distill_dagster.storage import read_json, write_file, write_json

PREDICTIONS_FILE = "predictions.parquet"
JUDGEMENTS_FILE = "judgements.parquet"
REPORT_JSON_FILE = "report.json"
REPORT_HTML_FILE = "report.html"
MEASUREMENTS_FILE = "measurements.json"


def write_evaluation(folder: Path, inputs: EvaluationInputs) -> EvaluationReport:
    """Evaluates, and writes report.html, report.json, predictions.parquet and measurements.json into `folder`.

    With a judge also judgements.parquet, its verdicts.

    report.json is a function of the inputs' rows and versions; whatever a stopwatch or the hardware decides
    is in measurements.json, and the page shows both.

    Raises:
        EvaluationError: the inputs do not belong together, there is nothing to evaluate on, or a user's metric failed.
        SpecError: a metric's JSON Schema cannot be read.
    """
    names = inputs.spec.evaluation.metric_names
    with open_metrics(inputs.spec, inputs.folder, inputs.project_root, inputs.similarities) as metrics:
        labels = inputs.spec.teacher.labels or ()
        predictions = build_predictions(inputs.test, inputs.generated, inputs.fidelity, names, metrics, labels)
        if (away := inputs.held_out) is not None:
            apart = (names, metrics, labels, Split.HELD_OUT)
            predictions.extend(build_predictions(away.rows, away.generated, away.fidelity, *apart))
        if (golden := inputs.golden) is not None:
            decided = (names, metrics, labels, GOLDEN)
            predictions.extend(build_predictions(golden.rows, golden.generated, None, *decided))
    report = evaluate(inputs, predictions)
    measurements = _measurements(inputs)
    page = render_html(report, predictions.filter(pl.col("split") != GOLDEN), measurements)
    write_file(folder / PREDICTIONS_FILE, lambda aside: predictions.write_parquet(aside, compression="zstd"))
    if inputs.judged is not None:
        rows = judgement_rows(inputs.judged)
        write_file(folder / JUDGEMENTS_FILE, lambda aside: rows.write_parquet(aside, compression="zstd"))
    write_json(folder / REPORT_JSON_FILE, json.loads(report.model_dump_json()))
    write_json(folder / MEASUREMENTS_FILE, measurements)
    write_file(folder / REPORT_HTML_FILE, lambda aside: aside.write_text(page, encoding="utf-8"))
    return report


def evaluation_version(folder: Path) -> str:
    """The content hash of a written evaluation: its predictions, its verdicts and report.json.

    The predictions alone would not do: a gate, a confidence level or a row that curation dropped changes the report
    without changing an answer. Timings are in neither file. The partition that a row lies in and the hash of the whole
    declaration are left out: cutting the prompts into others makes no other dataset, and so no other evaluation.
    """
    report = read_json(folder / REPORT_JSON_FILE)
    del report["identity"]["spec_hash"]
    predictions = pl.read_parquet(folder / PREDICTIONS_FILE).drop("partition")
    content = {
        "predictions": frame_version(predictions, predictions.columns),
        "report": report,
    }
    if (folder / JUDGEMENTS_FILE).exists():
        verdicts = pl.read_parquet(folder / JUDGEMENTS_FILE)
        content["judgements"] = frame_version(verdicts, verdicts.columns)
    return digest(content)[:VERSION_HEX_CHARS]


def _measurements(inputs: EvaluationInputs) -> Measurements:
    students = {System.STUDENT.value: inputs.student} | {companion(one.name): one for one in inputs.companions}
    captured = {system: student.capture for system, student in students.items() if student.capture is not None}
    predicted = {system: result.measurements for system, result in inputs.results.items()}
    price = inputs.spec.evaluation.cost
    return {
        "prediction": predicted,
        "cost": answer_costs(predicted, inputs.teacher_usd_per_1000_answers, price.usd_per_hour if price else None),
        "training": {system: student.training.measurements for system, student in students.items()},
        "capture": {
            system: {name: value for name, value in asdict(cost).items() if value is not None}
            for system, cost in captured.items()
        },
    }
