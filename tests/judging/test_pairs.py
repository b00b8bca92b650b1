"""Which rows are judged, and who is put beside the student."""

from typing import Any

import polars as pl

from distill_dagster.judging.pairs import PAIRS, choose_pairs
from distill_dagster.spec.judge import PairJudgeSpec


def judge(**keys: Any) -> PairJudgeSpec:
    return PairJudgeSpec.model_validate({"provider": "anthropic", "model": "claude-opus-5-5"} | keys)


def predictions(rows: int, models: tuple[str, ...] = ("student", "teacher", "base", "bigram")) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "prompt_id": f"p{number}",
                "sample": number % 2,
                "group_id": f"g{number // 3}",
                "text": f"Question {number}?",
                "reference": f"Reference {number}" if number % 2 else None,
                "model": model,
                "prediction": None if (model, number) == ("student", 1) else f"{model} on {number}",
            }
            for number in range(rows)
            for model in models
        ],
        schema_overrides={"sample": pl.Int32, "reference": pl.String},
    )


def test_the_students_answers_stand_beside_each_opponents() -> None:
    chosen = choose_pairs(predictions(4), judge(against=["base", "teacher"], rows=None))

    assert chosen.schema == PAIRS
    assert chosen["opponent"].to_list() == ["base"] * 4 + ["teacher"] * 4
    assert chosen.row(0, named=True) == {
        "prompt_id": "p0",
        "sample": 0,
        "group_id": "g0",
        "text": "Question 0?",
        "answer_student": "student on 0",
        "answer_other": "base on 0",
        "opponent": "base",
    }
    assert chosen.filter(prompt_id="p1")["answer_student"].to_list() == [None, None]


def test_rows_without_a_reference_are_no_pair_against_it() -> None:
    chosen = choose_pairs(predictions(6), judge(against=["reference"]))

    assert chosen.select("prompt_id", "answer_other").rows() == [(f"p{n}", f"Reference {n}") for n in (1, 3, 5)]


def test_rows_are_chosen_by_hash_the_same_for_every_opponent_and_student() -> None:
    both = judge(against=["teacher", "base"], rows=7)
    chosen = choose_pairs(predictions(40), both)
    shuffled = choose_pairs(predictions(40).sample(fraction=1, shuffle=True, seed=3), both)
    more = choose_pairs(predictions(40), judge(rows=20))

    ids = {
        opponent: set(frame["prompt_id"])
        for (opponent,), frame in chosen.partition_by("opponent", as_dict=True).items()
    }
    assert len(ids["teacher"]) == 7
    assert ids["teacher"] == ids["base"]
    assert shuffled.equals(chosen)
    assert ids["teacher"] < set(more["prompt_id"])
    assert ids["teacher"] != {f"p{number}" for number in range(7)}


def test_an_opponent_without_predictions_has_no_pairs() -> None:
    assert choose_pairs(predictions(3, ("student",)), judge()).is_empty()
