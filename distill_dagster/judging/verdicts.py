"""The judge's verdicts as a table: win rate, flips, ties, position, length, and who the judge is."""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from distill_dagster.evaluation.statistics import Estimate, mean_estimate, ratio_estimate
from distill_dagster.judging.outcomes import DECISIVE, Outcome, pair_outcomes
from distill_dagster.judging.pairs import OTHER, STUDENT
from distill_dagster.judging.prompts import OTHER_FIRST, STUDENT_FIRST
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.spec.teacher import TeacherSpec

# Lengths within 20 %: the shorter answer has at least this share of the longer one's characters.
LIKE_LENGTH = 0.8
EVEN = 0.5
OPPONENT_LABELS = {
    "teacher": "the teacher",
    "base": "the undistilled base",
    "reference": "the human reference",
}


class JudgeTable(BaseModel):
    """What a judge said of the student against one opponent.

    A pair is a win or a loss only where both orders agree on it; flips and wavers are ties and count 0.5.

    Attributes:
        judge: the judge, as reports name it.
        pairs: wins + losses + ties + unusable.
        ties: agreed ones, flips and wavers.
        identical: ties of equal answers, which nobody was asked about.
        without_answer: wins and losses because one side has no answer, likewise.
        flips: pairs whose winner changed with the order.
        wavers: a tie in one order, a winner in the other.
        unusable: pairs without a readable verdict in both orders; they are in no rate.
        problems: verdicts that are not usable, by reason.
        win_rate: mean of 1, 0.5 and 0 over usable pairs.
        flip_rate: share of flips among decisive pairs: asked, and with a winner in both orders.
        first_rate: share of verdicts with a winner that name the answer shown first; 0.5 is no preference.
        length_ratio: characters of the student's answers per character of the opponent's.
        like_length_win_rate: win rate over the pairs whose lengths are within 20 %.
        longer_rate: share of pairs with one winner that the longer answer won.
        self_judging: whether the judge is the teacher.
        disclosure: a sentence on who the judge is to the teacher.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    opponent: str
    judge: str
    rubric: str
    pairs: int
    wins: int
    losses: int
    ties: int
    identical: int
    without_answer: int
    flips: int
    wavers: int
    unusable: int
    problems: dict[str, int]
    win_rate: Estimate
    flip_rate: Estimate
    first_rate: Estimate
    length_ratio: Estimate
    like_length_win_rate: Estimate
    longer_rate: Estimate
    self_judging: bool
    disclosure: str

    @property
    def opponent_label(self) -> str:
        """The opponent inside a phrase."""
        return OPPONENT_LABELS.get(self.opponent, self.opponent)

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Whether the whole interval of the win rate lies on one side of 0.5."""
        ends = self.win_rate.interval
        if ends is None or ends[0] <= EVEN <= ends[1]:
            return "undecided"
        return "better" if ends[0] > EVEN else "worse"


def judge_tables(
    judged: pl.DataFrame, pairs: pl.DataFrame, spec: PairJudgeSpec, teacher: TeacherSpec, confidence: float, seed: int
) -> list[JudgeTable]:
    """A table for each opponent that has pairs, in the order of `spec.against`; see `judge_table`."""
    present = set(pairs["opponent"])
    return [
        judge_table(
            judged.filter(pl.col("opponent") == opponent),
            pairs.filter(pl.col("opponent") == opponent),
            spec,
            teacher,
            confidence,
            seed,
        )
        for opponent in spec.against
        if opponent in present
    ]


def judge_table(
    judged: pl.DataFrame, pairs: pl.DataFrame, spec: PairJudgeSpec, teacher: TeacherSpec, confidence: float, seed: int
) -> JudgeTable:
    """The table of one opponent.

    Judges prefer long answers: Dubois et al., "Length-Controlled AlpacaEval" (2024), who fit the win rate that would
    be at equal lengths. Here it is measured on the pairs whose lengths are alike, which needs no model of the bias.

    Args:
        judged: JUDGED columns.
        pairs: PAIRS columns of the same pairs, at least one, all against one opponent.
        spec: the judge.
        teacher: the teacher, for the disclosure.
        confidence, seed: of the intervals, over groups.

    Raises:
        ValueError: no pairs, several opponents, or pairs without their two verdict rows.
    """
    opponents = pairs["opponent"].unique().to_list()
    if len(opponents) != 1:
        raise ValueError(f"one table is about one opponent (seen: {sorted(opponents)})")
    rows = _measured(pair_outcomes(judged, pairs))
    return JudgeTable(
        opponent=opponents[0],
        judge=spec.label,
        rubric=spec.rubric,
        **_counts(rows),
        problems=dict(sorted(judged["problem"].drop_nulls().value_counts().iter_rows())),
        **_rates(rows, confidence, seed),
        self_judging=is_self_judging(spec, teacher),
        disclosure=disclosure(spec, teacher),
    )


def is_self_judging(spec: PairJudgeSpec, teacher: TeacherSpec) -> bool:
    """Whether judge and teacher are one model by name, whoever serves it."""
    return spec.model.casefold() == teacher.model.casefold()


def disclosure(spec: PairJudgeSpec, teacher: TeacherSpec) -> str:
    """Who the judge is to the teacher.

    Models favour answers of their own kind: Panickssery et al., "LLM Evaluators Recognize and Favor Their Own
    Generations" (2024).
    """
    if is_self_judging(spec, teacher):
        return (
            f"The judge, {spec.label}, is the teacher itself. Models favour answers like their own, "
            "so it is no neutral judge of the teacher or of a student that imitates it."
        )
    if spec.provider == teacher.provider == "anthropic":
        return (
            f"The judge, {spec.label}, and the teacher, {teacher.model}, are two models of one maker, "
            "which may favour answers like their own."
        )
    return f"The judge, {spec.label}, is by its name not the teacher, {teacher.model} ({teacher.provider})."


def _measured(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds to `pair_outcomes` what the rates are made of."""
    student, other = pl.col("student_chars"), pl.col("other_chars")
    in_order = (pl.col(STUDENT_FIRST), pl.col(OTHER_FIRST))
    won = pl.col("outcome") == Outcome.WIN
    has_winner = pl.col("outcome").is_in([Outcome.WIN, Outcome.LOSS])
    return rows.with_columns(
        student_chars=pl.col("answer_student").str.len_chars(),
        other_chars=pl.col("answer_other").str.len_chars(),
        answered=pl.col("answer_student").is_not_null() & pl.col("answer_other").is_not_null(),
        flipped=(pl.col("outcome") == Outcome.FLIP).cast(pl.Float64),
        named_first=sum(
            (order == said).fill_null(False).cast(pl.Float64)
            for order, said in zip(in_order, (STUDENT, OTHER), strict=True)
        ),
        named_one=sum(order.is_in([STUDENT, OTHER]).fill_null(False).cast(pl.Float64) for order in in_order),
    ).with_columns(
        like_length=pl.min_horizontal(student, other) >= LIKE_LENGTH * pl.max_horizontal(student, other),
        longer_won=pl.when(has_winner & (student != other)).then((won == (student > other)).cast(pl.Float64)),
    )


def _counts(rows: pl.DataFrame) -> dict[str, int]:
    """The table's counts of pairs, by field."""
    found: dict[str, int] = dict(rows["outcome"].value_counts().iter_rows())
    flips, wavers = found.get(Outcome.FLIP, 0), found.get(Outcome.WAVER, 0)
    unasked = rows.filter(~pl.col("asked"))
    identical = len(unasked.filter(pl.col("outcome") == Outcome.TIE))
    return {
        "pairs": len(rows),
        "wins": found.get(Outcome.WIN, 0),
        "losses": found.get(Outcome.LOSS, 0),
        "ties": found.get(Outcome.TIE, 0) + flips + wavers,
        "identical": identical,
        "without_answer": len(unasked) - identical,
        "flips": flips,
        "wavers": wavers,
        "unusable": found.get(Outcome.UNUSABLE, 0),
    }


def _rates(rows: pl.DataFrame, confidence: float, seed: int) -> dict[str, Estimate]:
    """The table's estimates, by field."""

    def mean(part: pl.DataFrame, column: str) -> Estimate:
        return mean_estimate(part[column].to_numpy(), part["group_id"].to_list(), confidence, seed)

    def ratio(part: pl.DataFrame, top: str, bottom: str) -> Estimate:
        clusters = part["group_id"].to_list()
        return ratio_estimate(part[top].to_numpy(), part[bottom].to_numpy(), clusters, confidence, seed)

    usable, asked = rows.filter(pl.col("score").is_not_null()), rows.filter("asked")
    return {
        "win_rate": mean(usable, "score"),
        "flip_rate": mean(asked.filter(pl.col("outcome").is_in(DECISIVE)), "flipped"),
        "first_rate": ratio(asked, "named_first", "named_one"),
        "length_ratio": ratio(rows.filter("answered"), "student_chars", "other_chars"),
        "like_length_win_rate": mean(usable.filter("answered", "like_length"), "score"),
        "longer_rate": mean(asked.filter(pl.col("longer_won").is_not_null()), "longer_won"),
    }
