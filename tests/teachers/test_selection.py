"""Which sample stays, and how samples are scored."""

import traceback
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.errors import TeacherError
from distill_dagster.spec.answers import BestOf, BestSpec
from distill_dagster.teachers.answers.selection import metric_scores, python_scores, select

BEST = BestOf(best=BestSpec(metric="rouge_l"))
SECRET = "what nobody else may read"
SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "status": pl.String,
    "completion": pl.String,
    "problem": pl.String,
    "score": pl.Float64,
    "text": pl.String,
    "reference": pl.String,
}


def sample(number: int = 0, prompt_id: str = "a", **columns: Any) -> dict[str, Any]:
    """A usable answer unless said otherwise."""
    row = {"prompt_id": prompt_id, "sample": number, "status": "answered", "completion": "answer", "text": "Why?"}
    return dict.fromkeys(SCHEMA) | row | columns


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA)


def selected(rows: pl.DataFrame, how: Any) -> list[tuple[str, int]]:
    return select(rows, how).filter("selected").select("prompt_id", "sample").rows()


def test_all_selects_every_row() -> None:
    rows = frame(sample(0), sample(1, problem="invalid_json"), sample(2, status="refused"))

    assert selected(rows, "all") == [("a", 0), ("a", 1), ("a", 2)]


def test_first_valid_is_the_usable_sample_of_the_smallest_index() -> None:
    rows = frame(
        sample(4),
        sample(3),
        sample(2, problem="invalid_label"),
        sample(1, status="truncated"),
        sample(0, completion=" "),
        sample(0, "b"),
    )

    assert selected(rows, "first_valid") == [("a", 3), ("b", 0)]


def test_best_is_the_highest_score_among_usable_samples() -> None:
    rows = frame(sample(0, score=None), sample(1, score=-2.0), sample(2, score=9.0, problem="invalid_json"))

    assert selected(rows, BEST) == [("a", 1)]


def test_equal_scores_and_no_scores_leave_the_smaller_index() -> None:
    rows = frame(
        sample(2, score=5.0), sample(1, score=5.0), sample(0, score=1.0), sample(1, "b"), sample(0, "b"), sample(2, "b")
    )

    assert selected(rows, BEST) == [("a", 1), ("b", 0)]


@pytest.mark.parametrize("how", ["first_valid", BEST])
def test_a_prompt_without_usable_sample_keeps_all_rows_for_curation(how: Any) -> None:
    rows = frame(sample(0, status="refused"), sample(1, problem="invalid_json"), sample(0, "b"), sample(1, "b"))

    assert selected(rows, how) == [("a", 0), ("a", 1), ("b", 0)]


statuses = st.sampled_from(["answered", "answered", "truncated", "refused"])
drawn_samples = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, 5),
        statuses,
        st.sampled_from(["text", "", None]),
        st.sampled_from([None, None, "invalid_label"]),
        st.none() | st.floats(-5, 5),
    ),
    unique_by=lambda drawn: drawn[:2],
    max_size=18,
)


@given(drawn_samples, st.sampled_from(["first_valid", BEST]))
def test_exactly_one_usable_sample_of_a_prompt_is_selected(drawn: list[tuple[Any, ...]], how: Any) -> None:
    rows = frame(
        *(
            sample(number, name, status=status, completion=text, problem=problem, score=score)
            for name, number, status, text, problem, score in drawn
        )
    )

    result = select(rows, how)

    assert result.drop("selected").equals(rows)
    for (_,), samples in result.partition_by("prompt_id", as_dict=True).items():
        usable = samples.filter(
            pl.col("status") == "answered", pl.col("completion") == "text", pl.col("problem").is_null()
        )
        chosen = samples.filter("selected")
        if usable.is_empty():
            assert chosen.height == samples.height
            continue
        best = usable["score"].max() if how is BEST else None
        equals = usable.filter(pl.col("score") == best) if best is not None else usable
        assert chosen["sample"].to_list() == [equals["sample"].min()]


def test_a_metric_needs_a_reference_and_a_usable_answer() -> None:
    rows = frame(
        sample(0, completion="the moon", reference="The moon."),
        sample(1, completion="the sun", reference="The moon."),
        sample(2, completion="the moon", reference="The moon.", status="truncated"),
        sample(0, "b"),
    )

    assert metric_scores(rows, "exact_match").to_list() == [1.0, 0.0, None, None]


def test_a_function_beside_the_yaml_scores_usable_answers(tmp_path: Path) -> None:
    (tmp_path / "weights.py").write_text("WEIGHT = 10")
    (tmp_path / "scoring.py").write_text(
        "import numpy as np\nimport weights\n\n"
        "def brevity(prompt, completion, reference):\n"
        "    assert prompt == 'Why?' and reference is None\n"
        "    return np.float32(-weights.WEIGHT * len(completion))\n"
    )
    rows = frame(sample(0, completion="ab"), sample(1, status="refused"), sample(2, completion="a"))

    assert python_scores(rows, "scoring.brevity", tmp_path).to_list() == [-20.0, None, -10.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {}[prompt]", r"KeyError at .*scoring\.py:2; mend the function"),
        ("return 'good'", r"return a finite number \(seen: str\)"),
        ("return None", r"return a finite number \(seen: NoneType\)"),
        ("return float('nan')", r"return a finite number \(seen: nan\)"),
        ("return 10 ** 400", r"return a finite number \(seen: inf\)"),
    ],
)
def test_a_scoring_function_that_fails_is_named_and_its_texts_are_not(tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "scoring.py").write_text(f"def score(prompt, completion, reference):\n    {body}\n")

    with pytest.raises(TeacherError, match=rf"best\.python: scoring\.score: prompt 'a', sample 3: {message}") as caught:
        python_scores(frame(sample(3, text=SECRET)), "scoring.score", tmp_path)

    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("score", "write module.function"),
        ("nowhere.score", "no file"),
        ("scoring.others", "has no function 'others'"),
        ("broken.score", r"broken\.py:1: SyntaxError"),
    ],
)
def test_a_scoring_function_that_is_not_there_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "scoring.py").write_text("def score(*texts): return 1")
    (tmp_path / "broken.py").write_text("def score(")

    with pytest.raises(TeacherError, match=rf"teacher\.select\.best\.python: .*{message}"):
        python_scores(frame(sample()), name, tmp_path)
