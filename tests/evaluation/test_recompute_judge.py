"""The scripts of docs/recompute.md come to the judge's numbers, from judgements.parquet alone."""

import random
from pathlib import Path

import polars as pl
import pytest

from distill_dagster.evaluation.judged import Judged, judgement_rows
from distill_dagster.evaluation.statistics import Method
from distill_dagster.judging.pairs import JUDGED, PAIRS
from distill_dagster.judging.verdicts import JudgeTable, judge_tables
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.spec.teacher import TeacherSpec
from tests.evaluation.recomputing import run, scripts

RATES = ("win_rate", "flip_rate", "first_rate", "length_ratio", "like_length_win_rate", "longer_rate")
EXACT = 1e-9


def judged(groups: int) -> Judged:
    """140 pairs with two opponents: verdicts at random, some unusable, equal answers and missing ones among them."""
    rng = random.Random(3)
    pairs, verdicts = [], []
    for opponent in ("teacher", "base"):
        for at in range(70):
            student, other = "x" * rng.randint(1, 12), "y" * rng.randint(1, 12)
            asked = at % 10 > 1
            if not asked:
                student, other = ("same", "same") if at % 10 else (None, other)
            pairs.append((f"p{at}", 0, f"g{at % groups}", "Why?", student, other, opponent))
            unasked = "tie" if student else "other"
            for order in ("student_first", "other_first"):
                said = rng.choice(["student", "student", "other", "tie", None]) if asked else unasked
                problem, key = (None if said else "refused"), (f"{opponent}{at}{order}" if asked else None)
                verdicts.append((f"p{at}", 0, f"g{at % groups}", opponent, order, said, problem, key))
    return Judged(pl.DataFrame(pairs, PAIRS, orient="row"), pl.DataFrame(verdicts, JUDGED, orient="row"))


def written(folder: Path, groups: int) -> tuple[list[JudgeTable], Path]:
    found, path = judged(groups), folder / "judgements.parquet"
    judgement_rows(found).write_parquet(path)
    judge = PairJudgeSpec(provider="anthropic", model="claude-opus-5-5", against=["teacher", "base"])
    teacher = TeacherSpec(provider="anthropic", model="claude-haiku-4-5")
    return judge_tables(found.verdicts, found.pairs, judge, teacher, 0.95, 17), path


@pytest.mark.parametrize(("groups", "method"), [(70, Method.CLUSTER_BOOTSTRAP), (9, Method.CLUSTER_T)])
def test_recomputed_rates_and_intervals(tmp_path: Path, groups: int, method: Method) -> None:
    tables, path = written(tmp_path, groups)
    both = scripts()["judge"] + scripts()["judge_intervals"]

    lines = run(both, path)

    values = {(line[0], line[1]): float(line[2]) for line in lines[1:13]}
    ends = {(line[0], line[1]): list(map(float, line[2:])) for line in lines[13:]}
    methods = set()
    for table in tables:
        for name in RATES:
            estimate = getattr(table, name)
            assert values[table.opponent, name] == pytest.approx(estimate.value, rel=EXACT), name
            low, high, boot_low, boot_high, n = ends[table.opponent, name]
            assert n == estimate.n_clusters, name
            found = (low, high) if estimate.method == Method.CLUSTER_T else (boot_low, boot_high)
            assert found == pytest.approx(estimate.interval, rel=EXACT), name
            methods.add(estimate.method)
    assert method in methods


def test_recomputed_counts(tmp_path: Path) -> None:
    tables, path = written(tmp_path, 70)
    rows = pl.read_parquet(path)

    for table in tables:
        own = rows.filter(opponent=table.opponent)
        outcomes = dict(own["outcome"].value_counts().iter_rows())
        counted = (table.wins, table.losses, table.flips, table.wavers, table.unusable)
        assert counted == tuple(outcomes[name] / 2 for name in ("win", "loss", "flip", "waver", "unusable"))
        assert table.problems == {"refused": own["problem"].count()}
