"""What the page shows beyond the report itself: the big numbers at the top and texts side by side."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from distill_dagster.evaluation.formatting import (
    UNDEFINED,
    count,
    interval,
    number,
    parameters,
    quantity,
    size,
    system_label,
)
from distill_dagster.evaluation.model import EvaluationReport, Measure, SampleRow, StudentFacts, System, Unit, answering
from distill_dagster.evaluation.page import shown_text
from distill_dagster.evaluation.plots import role
from distill_dagster.evaluation.predictions import KEY, vs_reference, vs_teacher
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.metrics import metric_label

OBJECTIVES = {
    "sft": "sft: the tokens of completions",
    "logit": "logit: captured distributions",
    "on_policy": "on_policy: the teacher’s distributions",
}
TARGETS = {"teacher": "the teacher’s answers", "reference": "human references"}

Timings = dict[str, dict[str, float]]
"""Measurements by system and name."""


@dataclass(frozen=True)
class Card:
    """A big number: what it is, the number, what it rests on."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """One text of a side-by-side row, with its scores on the primary metric."""

    role: str
    label: str
    text: str | None
    scores: str


@dataclass(frozen=True)
class SideBySide:
    """A prompt and every answer to it."""

    prompt_id: str
    partition: str
    prompt: str
    answers: list[Answer]


@dataclass(frozen=True)
class FactRow:
    """One fact, of each student in the order of the report."""

    label: str
    values: list[str]


def cards(report: EvaluationReport, measurements: Timings) -> list[Card]:
    """Quality kept, fidelity, size and speed; `–` with the reason where one was not measured.

    Args:
        report: the evaluation.
        measurements: of the predictions, by system.
    """
    return [_quality(report), _fidelity(report), _size(report), _speed(measurements)]


def student_facts(report: EvaluationReport, training: Timings, capture: Timings) -> list[FactRow]:
    """What each student is; facts that no student has are left out.

    Args:
        training, capture: measurements by system.
    """
    students = report.students
    times = [(training.get(student.system, {}), capture.get(student.system, {})) for student in students]
    rows = [
        FactRow("Objective", [OBJECTIVES.get(student.objective, student.objective) for student in students]),
        FactRow("Learnt from", [_learnt_from(student) for student in students]),
        FactRow("Starts from", [student.origin for student in students]),
        FactRow("Quality kept", [_kept(report, student) for student in students]),
        FactRow("Parameters", [parameters(report.parameters.get(student.system)) for student in students]),
        FactRow("Checkpoint", [size(report.checkpoint_bytes.get(student.system)) for student in students]),
        FactRow("Rows", [count(student.rows_trained) for student in students]),
        FactRow("Optimiser steps", [count(student.steps) for student in students]),
        FactRow("Training, seconds", [number(trained.get("seconds"), 0) for trained, _ in times]),
        FactRow("Trained tokens per second", [number(trained.get("tokens_per_second"), 1) for trained, _ in times]),
        FactRow("Peak memory of training", [size(trained.get("peak_memory_bytes")) for trained, _ in times]),
        FactRow("Captured bytes per token", [number(captured.get("bytes_per_token"), 1) for _, captured in times]),
        FactRow("Capture, seconds", [number(captured.get("seconds"), 0) for _, captured in times]),
    ]
    return [row for row in rows if set(row.values) != {UNDEFINED}]


def side_by_side(
    predictions: pl.DataFrame, rows: list[SampleRow], primary: str, companions: list[str]
) -> list[SideBySide]:
    """The texts of chosen rows: teacher, students, base, and the human reference where there is one."""
    is_agreement = predictions[vs_teacher(primary)].is_not_null().any()
    against = "vs reference" if is_agreement else metric_label(primary)
    return [_texts(predictions, row, primary, against, answering(companions)) for row in rows]


def _quality(report: EvaluationReport) -> Card:
    label = f"of the teacher’s {metric_label(report.primary_metric)} kept"
    kept = report.quality_kept
    if kept.value is None:
        why = "the teacher scores 0 on every row" if kept.n else "no human references to measure quality against"
        return Card(label, UNDEFINED, why)
    against = "against human references" if report.needs_reference(report.primary_metric) else "on every test row"
    return Card(label, _percent(kept), f"{against}, {_rests_on(kept, 'share')}")


def _fidelity(report: EvaluationReport) -> Card:
    top1 = report.measure("fidelity", "top1")
    texts = [one for one in report.fidelity if one.unit == "score"]
    others = (report.measure("fidelity", report.primary_metric), *texts)
    measure = top1 or next((one for one in others if one is not None), None)
    if measure is None:
        return Card("closeness to the teacher", UNDEFINED, "no metric compares with the teacher’s answers")
    estimate = measure.systems[System.STUDENT]
    label = "of next tokens as the teacher’s" if top1 else f"{measure.label} with the teacher’s answers"
    return Card(label, _share(estimate, measure), _rests_on(estimate, measure.unit))


def _size(report: EvaluationReport) -> Card:
    student, teacher = report.parameters.get("student"), report.parameters.get("teacher")
    disk = size(report.checkpoint_bytes.get("student"))
    if not student or not teacher:
        return Card("parameters", parameters(student), f"{disk} on disk; the teacher’s size is not known")
    detail = f"{parameters(student)} parameters, teacher {parameters(teacher)}; {disk} on disk"
    if student <= teacher:
        return Card("smaller than the teacher", f"{number(teacher / student, 1)}×", detail)
    return Card("larger than the teacher", f"{number(student / teacher, 1)}×", detail)


def _speed(measurements: Timings) -> Card:
    student = measurements.get("student", {}).get("tokens_per_second")
    teacher = measurements.get("teacher", {}).get("tokens_per_second")
    if not student:
        return Card("the teacher’s speed", UNDEFINED, "the student’s speed was not measured")
    if not teacher:
        value = count(round(student))
        return Card("tokens per second", value, "greedy, in batches; the teacher was not timed on this machine")
    detail = f"{count(round(student))} vs {count(round(teacher))} tokens per second, greedy, one run"
    return Card("the teacher’s speed", f"{number(student / teacher, 1)}×", detail)


def _percent(estimate: Estimate) -> str:
    return UNDEFINED if estimate.value is None else f"{number(estimate.value * 100, 0)}\N{NO-BREAK SPACE}%"


def _share(estimate: Estimate, measure: Measure) -> str:
    return _percent(estimate) if measure.unit == "share" else quantity(estimate.value, measure.unit)


def _rests_on(estimate: Estimate, unit: Unit) -> str:
    span = interval(estimate, unit) if estimate.interval else "no interval"
    return f"{span}, n = {count(estimate.n)}"


def _kept(report: EvaluationReport, student: StudentFacts) -> str:
    """The share of the teacher's quality on the main metric."""
    share = next((one.systems[student.system] for one in report.retention if one.name == report.primary_metric), None)
    if share is None or share.value is None:
        return UNDEFINED
    return (
        f"{quantity(share.value, 'share')} {interval(share, 'share')}"
        if share.interval
        else quantity(share.value, "share")
    )


def _learnt_from(student: StudentFacts) -> str:
    if student.objective == "on_policy":
        return "its own answers to the prompts"
    return TARGETS.get(student.targets, student.targets)


def _texts(
    predictions: pl.DataFrame, row: SampleRow, primary: str, against: str, systems: tuple[str, ...]
) -> SideBySide:
    own = predictions.filter((pl.col(KEY[0]) == row.prompt_id) & (pl.col(KEY[1]) == row.sample))
    by_model = {record["model"]: record for record in own.iter_rows(named=True)}
    first = by_model[System.TEACHER.value]
    answers = [
        Answer(
            role=role(system),
            label=system_label(system),
            text=_shown(by_model[system]["prediction"]),
            scores=_scores(by_model[system], primary, against),
        )
        for system in systems
        if system in by_model
    ]
    if first["reference"] is not None:
        answers.append(Answer("reference", "Human reference", _shown(first["reference"]), ""))
    return SideBySide(
        prompt_id=row.prompt_id, partition=first["partition"], prompt=_shown(first["text"]) or "", answers=answers
    )


def _scores(record: dict[str, Any], primary: str, against: str) -> str:
    parts = [
        f"{number(record[column], 3)} {said}"
        for column, said in ((vs_reference(primary), against), (vs_teacher(primary), "vs teacher"))
        if record[column] is not None
    ]
    if record["stopped"] is False:
        parts.append("no stop")
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _shown(text: str | None) -> str | None:
    return None if text is None else shown_text(text)
