"""Asks every design about the same few rows of the validation split, through the response store and the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from distill_dagster.errors import DistillError, EvaluationError, SpecError
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.splits import Split, sha256_hex
from distill_dagster.prompts.store import PROMPTS_SCHEMA
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.metrics import MACRO_F1, metric_name
from distill_dagster.teachers.asking.obtaining import Purse, obtain
from distill_dagster.teachers.asking.survey import Survey, survey
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.variants.make import DECLARED, Design, make_designs
from distill_dagster.worker_process import Launch

ROW_COLUMNS = ("prompt_id", "group_id", "partition", "text", "reference")


@dataclass(frozen=True)
class Question:
    """One design's requests and what became of them so far.

    Attributes:
        requests: prompt_id, messages, sample (0: one answer a row), request_key.
        unrendered: rows that are no prompt in this design (with `on_bad_row: skip`).
        found: how many are stored and missing, and the most that the missing ones can cost.
    """

    design: Design
    teacher: Teacher
    requests: pl.DataFrame
    unrendered: int
    found: Survey


@dataclass(frozen=True)
class Inquiry:
    """The same rows asked in every design.

    Attributes:
        rows: ROW_COLUMNS, as the declared design has them.
        available: rows of the validation split.
        versions: content version of the declared design's prompts, by partition.
        failed: partitions without prompts, each with the reason.
        questions: the declared design first.
    """

    distillation: Distillation
    rows: pl.DataFrame
    available: int
    versions: Mapping[str, str]
    failed: Mapping[str, str]
    questions: Sequence[Question]

    @property
    def missing(self) -> int:
        """Answers to ask for."""
        return sum(question.found.missing for question in self.questions)

    @property
    def most_microusd(self) -> int:
        """The most that they can cost."""
        return sum(question.found.most_microusd for question in self.questions)


def prepare(distillation: Distillation, rows: int, launch: Launch) -> Inquiry:
    """Chooses rows and writes every design's requests; asks nobody.

    The rows are those of the declared design's validation split with the smallest hash of group and prompt id, so that
    they stay the same ones whatever the designs say, and a larger number only adds to a smaller one.

    Args:
        rows: how many, at most.
        launch: starts the worker, for a local teacher.

    Raises:
        SpecError: the variants cannot be used.
        EvaluationError: the validation split is empty, or no declared metric is one of texts alone.
        DistillError: the prompts or the teacher cannot be used as declared.
    """
    of_texts(distillation.spec)
    designs = make_designs(distillation)
    declared = build_prompts(designs[0].distillation)
    validation = _all_prompts(declared).filter(pl.col("split") == Split.VALIDATION.value)
    if validation.is_empty():
        raise EvaluationError(
            f"{distillation.name}: the validation split is empty, so there is nothing to compare on; "
            f"raise prompts.split.validation (now {distillation.spec.prompts.split.validation:g}) or add rows"
        )
    chosen = _smallest(validation, rows)
    store = ResponseStore(distillation.project.store_url)
    questions = []
    for design in designs:
        build = declared if design.name == DECLARED else _build(design)
        questions.append(_question(design, _conversations(design, build, chosen), len(chosen), store, launch))
    return Inquiry(
        distillation=distillation,
        rows=chosen.select(ROW_COLUMNS),
        available=len(validation),
        versions={name: made.version for name, made in declared.partitions.items()},
        failed=declared.failed,
        questions=questions,
    )


def of_texts(spec: DistillationSpec) -> DistillationSpec:
    """The declaration without metrics that take a model: prompt designs are not compared on them.

    Raises:
        EvaluationError: no metric is left.
    """
    metrics = [entry for entry in spec.evaluation.metrics if isinstance(entry, str) or not entry.embedding_similarity]
    if all(entry == MACRO_F1 for entry in metrics):
        raise EvaluationError(
            "evaluation.metrics: prompt designs are not compared by embedding_similarity; add one of the other metrics"
        )
    gate = spec.evaluation.gate
    kept = gate if gate is not None and gate.metric in map(metric_name, metrics) else None
    return spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"metrics": metrics, "gate": kept})})


def ask(inquiry: Inquiry) -> list[pl.DataFrame]:
    """Gets what is missing answered, out of the distillation's budget.

    Returns:
        Each design's requests with the answers' FETCHED columns, in the order of the questions.

    Raises:
        DistillError: some could not be answered; everything that was is stored.
    """
    store = ResponseStore(inquiry.distillation.project.store_url)
    purse = Purse(inquiry.distillation)
    for question in inquiry.questions:
        try:
            obtain(store, question.teacher, [question.requests], purse)
        except DistillError as error:
            raise type(error)(f"design {question.design.name}: {error}") from error
    return [
        question.requests.join(
            store.fetch(question.requests["request_key"].unique()), on="request_key", how="left", maintain_order="left"
        )
        for question in inquiry.questions
    ]


def _smallest(validation: pl.DataFrame, rows: int) -> pl.DataFrame:
    mixed = sha256_hex(pl.concat_str("group_id", "prompt_id", separator=":"))
    return validation.with_columns(mixed=mixed).sort("mixed").head(rows).drop("mixed").sort("prompt_id")


def _build(design: Design) -> PromptBuild:
    try:
        return build_prompts(design.distillation)
    except DistillError as error:
        raise type(error)(f"teacher.variants.{design.name}: {error}") from error


def _conversations(design: Design, build: PromptBuild, chosen: pl.DataFrame) -> pl.DataFrame:
    """prompt_id and messages of the chosen rows in this design; rows are known by their id, whatever the template."""
    found = _all_prompts(build).join(chosen.select("prompt_id"), on="prompt_id", how="semi")
    if len(found) < len(chosen) and build.failed:
        partition, reason = next(iter(build.failed.items()))
        raise SpecError(f"teacher.variants.{design.name}: partition {partition!r} has no prompts: {reason}")
    if found.is_empty():
        raise SpecError(f"teacher.variants.{design.name}: none of the {len(chosen)} rows is a prompt in this design")
    return found.select("prompt_id", "messages").sort("prompt_id")


def _question(design: Design, conversations: pl.DataFrame, rows: int, store: ResponseStore, launch: Launch) -> Question:
    teacher = make_teacher(design.distillation, launch)
    prompts = conversations.with_columns(sample=pl.lit(0, dtype=pl.Int32))
    requests = prompts.with_columns(teacher.identity.request_keys(prompts))
    found = survey(store, [requests], teacher.most_microusd)
    return Question(design, teacher, requests, rows - len(requests), found)


def _all_prompts(build: PromptBuild) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=PROMPTS_SCHEMA), *(made.frame for made in build.partitions.values())])
