"""Asks the judge about every pair in both orders, through the response store and the distillation's budget."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from distill_dagster.errors import DistillError
from distill_dagster.judging.pairs import JUDGED, OTHER, PAIR_KEY, STUDENT
from distill_dagster.judging.prompts import CLOSING, INSTRUCTIONS, ORDERS, STUDENT_FIRST, comparisons
from distill_dagster.judging.replies import FIRST, TIE, ReplyForm, reply_form
from distill_dagster.lineage.hashing import sha256_text
from distill_dagster.project import Distillation
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.teachers.asking.obtaining import Purse, obtain
from distill_dagster.teachers.asking.survey import Survey, survey
from distill_dagster.teachers.money.estimate import store_to_read
from distill_dagster.teachers.protocol import ResponseStatus, Teacher
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import Launch, no_launch

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class JudgePlan:
    """What judging takes; nothing was asked yet.

    Attributes:
        judge: who would be asked.
        pairs: how many there are.
        without_call: pairs decided without the judge: equal answers, or an answer that is missing.
        calls: distinct calls, how many are stored or missing, and the most that the missing ones can cost.
    """

    judge: str
    pairs: int
    without_call: int
    calls: Survey


def plan_judgements(distillation: Distillation, pairs: pl.DataFrame, launch: Launch) -> JudgePlan:
    """What judging the pairs takes; asks nobody.

    Args:
        distillation: one with `evaluation.judge`.
        pairs: PAIRS columns.
        launch: starts the worker, for a local judge.

    Raises:
        DistillError: the judge cannot be used as declared, or nothing says what it costs.
    """
    spec = _declared(distillation)
    with _named():
        teacher = _teacher(distillation, spec, launch)
        requests = _requests(pairs, spec, teacher)
        with store_to_read(distillation.project.store_url) as store:
            found = survey(store, [requests], teacher.most_microusd)
    return JudgePlan(spec.label, len(pairs), len(pairs) - len(requests) // len(ORDERS), found)


def judge_pairs(
    distillation: Distillation, pairs: pl.DataFrame, launch: Launch, purse: Purse | None = None
) -> pl.DataFrame:
    """The judge's verdict on every pair in both orders; what was asked before comes out of the store.

    Equal answers (but for space around them) are a tie, and a missing answer loses, without a call.

    Args:
        distillation: one with `evaluation.judge`; its `teacher.budget_usd` pays.
        pairs: PAIRS columns, each prompt, sample and opponent once.
        launch: starts the worker, for a local judge.
        purse: who pays; default: the distillation, outside of any run.

    Returns:
        JUDGED columns, two rows a pair, sorted by opponent, prompt, sample and order. `verdict` is `student`, `other`,
        `tie`, or null with the reason in `problem`: the answer's status, or `unreadable`. `request_key` is null where
        nobody was asked.

    Raises:
        BudgetError: the next call could exceed the budget; all answers so far are stored.
        DistillError: the judge cannot be used as declared, or some calls got no answer.
    """
    spec = _declared(distillation)
    store = ResponseStore(distillation.project.store_url)
    with _named():
        teacher = _teacher(distillation, spec, launch)
        requests = _requests(pairs, spec, teacher)
        if len(requests):
            obtain(store, teacher, [requests], purse or Purse(distillation))
    answers = store.fetch(requests["request_key"].unique()).select("request_key", "status", "completion")
    answered = requests.join(answers, on="request_key", how="left")
    judged = pl.concat([_read(answered, reply_form(spec.is_local)), _decided(pairs)])
    return judged.sort("opponent", "prompt_id", "sample", "order", descending=[False, False, False, True])


def judge_settings(distillation: Distillation) -> dict[str, Any]:
    """What decides the verdicts beside the texts, as JSON values, for a build key.

    The judge's address, prices and pace are left out, as they are for teachers.

    Raises:
        DistillError: the judge cannot be used as declared.
    """
    spec = _declared(distillation)
    form = reply_form(spec.is_local)
    with _named():
        identity = _teacher(distillation, spec, no_launch).identity
    return {
        "identity": identity.digest,
        "instructions": sha256_text("\n".join([INSTRUCTIONS, form.instruction, CLOSING])),
        **spec.model_dump(mode="json", include={"rubric", "rows", "against"}),
    }


def _declared(distillation: Distillation) -> PairJudgeSpec:
    spec = distillation.spec.evaluation.judge
    if spec is None:
        raise ValueError(f"{distillation.name}: no evaluation.judge is declared")
    return spec


@contextmanager
def _named() -> Iterator[None]:
    """Errors say that it is the judge who could not be asked."""
    try:
        yield
    except DistillError as error:
        raise type(error)(f"evaluation.judge: {error}") from error


def _teacher(distillation: Distillation, spec: PairJudgeSpec, launch: Launch) -> Teacher:
    """The judge as the teacher of a distillation like this one, without the few-shot examples, which it never reads."""
    declared = distillation.spec
    prompts = declared.prompts.model_copy(update={"few_shot": None})
    teacher = spec.as_teacher(reply_form(spec.is_local).schema)
    asked_as = declared.model_copy(update={"teacher": teacher, "prompts": prompts})
    return make_teacher(dataclasses.replace(distillation, spec=asked_as), launch)


def _requests(pairs: pl.DataFrame, spec: PairJudgeSpec, teacher: Teacher) -> pl.DataFrame:
    """What the judge is asked: both orders of each pair that needs it.

    Equal comparisons have one request key, so they are one call.

    Returns:
        prompt_id, pair_sample (the pair's sample), group_id, opponent, order, and REQUEST columns.
    """
    if pairs.select(PAIR_KEY).is_duplicated().any():
        raise ValueError("a prompt, sample and opponent are one pair; some are given twice")
    needing = pairs.filter(_without_call().is_null()).rename({"sample": "pair_sample"})
    asked = comparisons(needing, spec.rubric, reply_form(spec.is_local))
    asked = asked.with_columns(sample=pl.lit(0, dtype=pl.Int32))
    return asked.with_columns(teacher.identity.request_keys(asked))


def _without_call() -> pl.Expr:
    """The verdict on a pair that needs no judge; null where it needs one."""
    student, other = pl.col("answer_student"), pl.col("answer_other")
    return (
        pl.when(student.str.strip_chars().eq_missing(other.str.strip_chars()))
        .then(pl.lit(TIE))
        .when(student.is_null())
        .then(pl.lit(OTHER))
        .when(other.is_null())
        .then(pl.lit(STUDENT))
    )


def _decided(pairs: pl.DataFrame) -> pl.DataFrame:
    """JUDGED columns of the pairs that need no judge, the same in both orders."""
    decided = pairs.with_columns(verdict=_without_call()).filter(pl.col("verdict").is_not_null())
    nobody = {"problem": pl.lit(None, dtype=pl.String), "request_key": pl.lit(None, dtype=pl.String)}
    return pl.concat(
        decided.with_columns(order=pl.lit(order), **nobody).select(JUDGED.names()).cast(JUDGED) for order in ORDERS
    )


def _read(answered: pl.DataFrame, form: ReplyForm) -> pl.DataFrame:
    """JUDGED columns of the pairs that the judge was asked about.

    Args:
        answered: as `_requests`, with status and completion.
    """
    is_answered = pl.col("status") == ResponseStatus.ANSWERED.value
    choices = answered.select(pl.when(is_answered).then("completion")).to_series()
    choice = choices.map_elements(form.read, return_dtype=pl.String)
    chose_student = (pl.col("choice") == FIRST) == (pl.col("order") == STUDENT_FIRST)
    return (
        answered.with_columns(choice=choice)
        .with_columns(
            verdict=pl.when(pl.col("choice") == TIE)
            .then(pl.lit(TIE))
            .when(pl.col("choice").is_not_null())
            .then(pl.when(chose_student).then(pl.lit(STUDENT)).otherwise(pl.lit(OTHER))),
            problem=pl.when(~is_answered).then("status").when(pl.col("choice").is_null()).then(pl.lit(UNREADABLE)),
        )
        .drop("sample")
        .rename({"pair_sample": "sample"})
        .select(JUDGED.names())
        .cast(JUDGED)
    )
