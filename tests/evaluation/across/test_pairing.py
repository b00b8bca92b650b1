"""Which rows of two evaluations are the same."""

import polars as pl

from distill_dagster.evaluation.across.pairing import pair

SCHEMA = ["prompt_id", "model", "group_id", "text", "reference", "prediction"]


def predictions(*rows: tuple[str, str, str, str | None, str | None, str]) -> pl.DataFrame:
    """Args: rows: prompt_id, group_id, text, reference, the student's answer, the teacher's."""
    lines = [
        (prompt_id, model, group, text, reference, answer)
        for prompt_id, group, text, reference, student, teacher in rows
        for model, answer in (("student", student), ("teacher", teacher), ("base", "nothing"))
    ]
    return pl.DataFrame(lines, schema=SCHEMA, orient="row").with_columns(sample=pl.lit(0, dtype=pl.Int32))


def test_rows_are_paired_by_id_and_text_and_every_other_row_is_counted() -> None:
    a = predictions(
        ("same", "g1", "How?", None, "So.", "So."),
        ("reworded", "g2", "Why?", "ref", "x", "t"),
        ("only a", "g3", "When?", "ref", "x", "t"),
        ("corrected", "g4", "Where?", "ref", "x", "t"),
        ("asked again", "g5", "Who?", "ref", None, "t"),
    )
    b = predictions(
        ("asked again", "h1", "Who?", "ref", "y", "another"),
        ("corrected", "h1", "Where?", "better", "x", "t"),
        ("same", "h2", "How?", None, "So.", "So."),
        ("reworded", "h3", "Why so?", "ref", "x", "t"),
        ("only b", "h4", "Which?", "ref", "x", "t"),
        ("only b too", "h4", "What?", "ref", "x", "t"),
    )

    paired = pair(a, b)

    assert paired.a["prompt_id"].to_list() == paired.b["prompt_id"].to_list() == ["asked again", "corrected", "same"]
    assert paired.same_reference.to_list() == [True, False, True]
    assert paired.same_teacher.to_list() == [False, True, True]
    assert paired.changed.to_list() == [True, False, False]
    assert paired.a["group_id"].to_list() == ["h1", "h1", "h2"]
    assert paired.rows.model_dump() == {
        "both": 3,
        "groups": 2,
        "only_a": 1,
        "only_b": 2,
        "other_text": 1,
        "other_reference": 1,
        "other_teacher_answer": 1,
        "changed_answers": 1,
    }


def test_samples_of_one_prompt_are_told_apart() -> None:
    first = predictions(("p", "g", "How?", None, "one", "t"))
    second = predictions(("p", "g", "How?", None, "two", "t")).with_columns(sample=pl.lit(1, dtype=pl.Int32))

    paired = pair(pl.concat([first, second]), second)

    assert (paired.a["prediction"].to_list(), paired.rows.only_a, paired.rows.both) == (["two"], 1, 1)
