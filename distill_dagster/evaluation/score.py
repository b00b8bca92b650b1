"""Turns predictions into the report: counts, tables, headline sentences and the rows worth reading."""

import hashlib
import math

import polars as pl
from pydantic import JsonValue

from distill_dagster.evaluation.headlines import headlines
from distill_dagster.evaluation.held_out import held_out_part, held_out_sentences
from distill_dagster.evaluation.inputs import EvaluationInputs, TrainedStudent
from distill_dagster.evaluation.model import (
    Counts,
    Decoding,
    DroppedCount,
    EvaluationReport,
    GateVerdict,
    Identity,
    SampleRow,
    Samples,
    SeedFacts,
    StudentFacts,
    System,
    TrainingFacts,
    companion,
)
from distill_dagster.evaluation.predictions import GOLDEN, KEY, vs_reference, vs_teacher
from distill_dagster.evaluation.shares import ceiling_sentences, retention, second_sample
from distill_dagster.evaluation.statistics import DEFAULT_SEED
from distill_dagster.evaluation.tables import Scored, fidelity_table, health_table, quality_table
from distill_dagster.evaluation.verdict import no_candidate, reach_verdict
from distill_dagster.jobs import TrainResult
from distill_dagster.judging.verdicts import JudgeTable, judge_tables
from distill_dagster.judging.view import judge_findings
from distill_dagster.prompts.splits import Split
from distill_dagster.spec.students import ONLY_FOR, BaseSpec, StudentSpec

SAMPLES_EACH = 5


def evaluate(inputs: EvaluationInputs, predictions: pl.DataFrame) -> EvaluationReport:
    """The report of one student; equal inputs and predictions give an equal report.

    Args:
        inputs: what the evaluation is made from.
        predictions: what `build_predictions` made of it.
    """
    spec = inputs.spec.evaluation
    primary = spec.primary_metric
    companions = tuple(companion(other.name) for other in inputs.companions)
    test = predictions.filter(pl.col("split") == Split.TEST.value)
    measured = predictions.filter(pl.col("split") != GOLDEN)
    gate = _gate(inputs, predictions.filter(pl.col("split") == GOLDEN))
    scored = Scored(test, spec.confidence, DEFAULT_SEED, companions)
    quality = quality_table(scored, spec.metrics)
    fidelity = fidelity_table(scored, spec.metrics)
    health = health_table(scored)
    identity, counts = _identity(inputs), _counts(inputs, test)
    judge = _judge(inputs)
    again, away = second_sample(scored, spec.metrics), held_out_part(scored, measured, spec)
    further = [
        *ceiling_sentences(again, fidelity, primary),
        *held_out_sentences(away, quality, fidelity, primary),
        *judge_findings(judge),
    ]
    return EvaluationReport(
        identity=identity,
        headlines=[
            *([gate.statement] if gate else []),
            *headlines(identity, counts, primary, quality, fidelity, health, companions, further),
        ],
        counts=counts,
        primary_metric=primary,
        quality=quality,
        quality_kept=scored.kept(vs_reference(primary), System.STUDENT, System.TEACHER),
        retention=retention(scored, spec.metrics),
        fidelity=fidelity,
        second_sample=again,
        health=health,
        held_out=away,
        gate=gate,
        judge=judge,
        harness=inputs.harness,
        students=[
            _student_facts(System.STUDENT, inputs.student),
            *(_student_facts(companion(other.name), other) for other in inputs.companions),
        ],
        training=_training(inputs),
        parameters={system: result.parameters for system, result in inputs.results.items()},
        teacher_usd_per_1000_answers=inputs.teacher_usd_per_1000_answers,
        machine_usd_per_hour=float(spec.cost.usd_per_hour) if spec.cost else None,
        checkpoint_bytes={system: result.checkpoint_bytes for system, result in inputs.results.items()},
        samples=_samples(test, primary),
        confidence=spec.confidence,
        seed=DEFAULT_SEED,
    )


def base_origin(base: BaseSpec, name: str, training: TrainResult, source_layers: int | None = None) -> str:
    """What a student started from, in words.

    Args:
        name: of a base that is a model.
        training: says which layers of a pruned one were kept.
        source_layers: layers of the model it was cut from, where known.
    """
    if base.prune is None:
        return name
    kept = len(training.kept_layers) if training.kept_layers is not None else base.layers
    total = source_layers or (len(training.block_influence) if training.block_influence else None)
    source = "teacher" if base.prune == "teacher" else base.prune
    layers = f"{kept} of {total}" if total else f"{kept}"
    return f"{source} cut to {layers} layers"


def base_label(base: BaseSpec, name: str, training: TrainResult, source_layers: int | None = None) -> str:
    """What the base is, in words, so that beating it is not taken for more than it is."""
    origin = base_origin(base, name, training, source_layers)
    if base.prune is None:
        return f"{origin}, as published and not trained since"
    return f"{origin}, not trained since: a low bar"


def _identity(inputs: EvaluationInputs) -> Identity:
    spec = inputs.spec
    base = spec.students[inputs.student.name].base
    return Identity(
        distillation=inputs.distillation,
        student=inputs.student.name,
        description=spec.description,
        spec_hash=inputs.spec_hash,
        versions=inputs.versions,
        models=inputs.models,
        base_label=base_label(base, inputs.models.base, inputs.student.training, inputs.teacher_layers),
        base_is_pruned=base.prune is not None,
        decoding=Decoding(
            max_tokens=spec.evaluation.max_tokens or spec.teacher.max_tokens,
            batch_size=inputs.results[System.STUDENT].batch_size,
            teacher_max_tokens=spec.teacher.max_tokens,
            teacher_dtype=spec.teacher.dtype if spec.teacher.is_local else None,
        ),
        authorization=spec.teacher.authorization,
    )


def _counts(inputs: EvaluationInputs, predictions: pl.DataFrame) -> Counts:
    by_reason = inputs.dropped.group_by("split", "reason").len("rows").sort("split", "reason")
    asked = [System.STUDENT.value, System.BASE.value, *(companion(other.name) for other in inputs.companions)]
    answering = predictions.filter(pl.col("model").is_in(asked))
    unanswered = answering.group_by("model").agg(pl.col("prediction").is_null().sum())
    student = predictions.filter(pl.col("model") == System.STUDENT.value)
    return Counts(
        test_rows=len(inputs.test),
        test_groups=inputs.test["group_id"].n_unique(),
        rows_per_split=inputs.rows_per_split,
        rows_with_reference=inputs.test["reference"].is_not_null().sum(),
        dropped=[DroppedCount(split=split, reason=reason, rows=rows) for split, reason, rows in by_reason.iter_rows()],
        unanswered=dict(unanswered.sort("model").iter_rows()),
        rows_without_fidelity=None if inputs.fidelity is None else student["nll_tokens"].is_null().sum(),
        train_rows_over_length=inputs.student.training.rows_over_length,
        train_ids_over_length=inputs.student.training.over_length_ids,
    )


def _gate(inputs: EvaluationInputs, golden: pl.DataFrame) -> GateVerdict | None:
    """The verdict on golden rows' predictions."""
    gate = inputs.spec.evaluation.gate
    if gate is None:
        return None
    if inputs.golden is None:
        return no_candidate(gate, inputs.student.name, inputs.candidates, str(inputs.versions.golden_set))
    return reach_verdict(gate, golden, inputs.golden.look, len(inputs.candidates), inputs.golden.unverified)


def _judge(inputs: EvaluationInputs) -> list[JudgeTable]:
    judged, spec = inputs.judged, inputs.spec.evaluation
    if judged is None or spec.judge is None:
        return []
    return judge_tables(judged.verdicts, judged.pairs, spec.judge, inputs.spec.teacher, spec.confidence, DEFAULT_SEED)


def _student_facts(system: str, student: TrainedStudent) -> StudentFacts:
    return StudentFacts(
        system=system,
        name=student.name,
        version=student.version,
        objective=student.objective,
        targets=student.targets,
        origin=student.origin,
        rows_trained=student.training.rows_trained,
        steps=student.training.steps,
        tokens_trained=student.training.tokens_trained,
    )


def _training(inputs: EvaluationInputs) -> TrainingFacts:
    result = inputs.student.training
    return TrainingFacts(
        settings=_settings(inputs.spec.students[inputs.student.name]),
        seed=result.seed,
        seeds=[
            SeedFacts(seed=one.seed, steps=one.steps, validation_loss=_finite(one.validation_loss))
            for one in result.seeds
        ],
        validation_measure=result.validation_measure,
        rows_trained=result.rows_trained,
        steps=result.steps,
        tokens_trained=result.tokens_trained,
        train_loss=_finite(result.train_loss),
        validation_loss=_finite(result.validation_loss),
        kept_layers=result.kept_layers,
        loss_curve=[(step, _finite(loss)) for step, loss in result.loss_curve],
        validation_curve=[(step, _finite(loss)) for step, loss in result.validation_curve],
    )


def _settings(spec: StudentSpec) -> dict[str, JsonValue]:
    foreign = {name for name, objectives in ONLY_FOR.items() if spec.objective not in objectives}
    if spec.divergence != "jsd":
        foreign.add("beta")
    settings: dict[str, JsonValue] = spec.model_dump(mode="json", exclude=foreign)
    return settings


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def _samples(predictions: pl.DataFrame, primary: str) -> Samples:
    """The student's largest losses to the teacher on the references, or else its answers least like the teacher's."""
    student = predictions.filter(pl.col("model") == System.STUDENT.value)
    teacher = predictions.filter(pl.col("model") == System.TEACHER.value)
    reference = vs_reference(primary)
    if student[reference].is_not_null().any():
        both = student.join(teacher.select(*KEY, teacher_score=reference), on=KEY)
        loss = both.select(*KEY, loss=pl.col("teacher_score") - pl.col(reference))
        worst_by = "the teacher’s score minus the student’s, against the human reference"
    else:
        loss = student.select(*KEY, loss=1 - pl.col(vs_teacher(primary)))
        worst_by = "least like the teacher’s answer"
    worst = loss.filter(pl.col("loss") > 0).sort("loss", *KEY, descending=[True, False, False]).head(SAMPLES_EACH)
    by_hash = student.select(KEY).sort(pl.col("prompt_id").map_elements(_digest, return_dtype=pl.String), "sample")
    return Samples(worst_by=worst_by, worst=_refs(worst), fixed=_refs(by_hash.head(SAMPLES_EACH)))


def _refs(rows: pl.DataFrame) -> list[SampleRow]:
    return [SampleRow(prompt_id=prompt_id, sample=sample) for prompt_id, sample in rows.select(KEY).iter_rows()]


def _digest(prompt_id: str) -> str:
    return hashlib.sha256(prompt_id.encode()).hexdigest()
