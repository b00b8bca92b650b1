"""Exact and near duplicates: who stays, and that the exact similarity decides."""

import random
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.dataset.duplicates import (
    Questions,
    comparable,
    exact_duplicates,
    jaccard,
    near_duplicates,
    sketched,
)
from distill_dagster.prompts.identity import normalise
from tests.dataset.frames import prompt, prompts_frame

LONG = "please explain in a few words how a bicycle stays upright while somebody rides it along the road"


def shingles(text: str) -> set[str]:
    text = normalise(text)
    return {text[i : i + 5] for i in range(len(text) - 4)} or {text}


def near(rows: list[dict[str, str]], threshold: float = 0.85, within: bool = True, across: bool = True) -> list[tuple]:
    frame = prompts_frame(rows)
    questions = Questions()
    for part in frame.iter_slices(2):
        questions.add(sketched(comparable(part), threshold))
    found = near_duplicates(
        questions.of(frame["prompt_id"]),
        lambda ids: frame.filter(pl.col("prompt_id").is_in(ids.implode())).iter_slices(2),
        threshold,
        within=within,
        across=across,
    )
    return sorted(found.iter_rows())


def test_the_order_of_winning_is_test_validation_train_then_id() -> None:
    rows = [prompt("b"), prompt("a"), prompt("z", split="test"), prompt("y", split="validation")]

    assert comparable(prompts_frame(rows))["prompt_id"].to_list() == ["z", "y", "a", "b"]


def exact(rows: list[dict[str, str]], answers: list[tuple[str, int, bool]]) -> list[tuple]:
    """answers: prompt_id, sample, repeats."""
    frame = pl.DataFrame(answers, schema=["prompt_id", "sample", "repeats"], orient="row")
    questions = Questions()
    questions.add(comparable(prompts_frame(rows)))
    return sorted(exact_duplicates(frame, questions.of(frame["prompt_id"])).iter_rows())


def test_every_sample_of_a_repeated_prompt_is_a_duplicate() -> None:
    rows = [prompt("a", "What is AI?"), prompt("b", "what is AI"), prompt("c", "other")]
    answers = [("a", 1, False), ("b", 0, False), ("b", 1, False), ("c", 0, False)]

    assert exact(rows, answers) == [("b", 0, "a"), ("b", 1, "a")]


def test_samples_of_a_prompt_are_duplicates_only_where_they_say_the_same() -> None:
    answers = [("a", 2, True), ("a", 1, False), ("a", 0, False), ("b", 0, False)]

    assert exact([prompt("a"), prompt("b")], answers) == [("a", 2, "a")]


def test_a_test_prompt_outranks_a_smaller_id() -> None:
    rows = [prompt("a", LONG), prompt("t", f"{LONG}.", "test")]

    assert exact(rows, [("a", 0, False), ("t", 0, False)]) == [("a", 0, "t")]
    assert near(rows) == [("a", "t", False)]


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "自転車はなぜ倒れずに走ることができるのか、わかりやすく説明してください。",
        "كيف تبقى الدراجة متوازنة أثناء الركوب على الطريق؟",
    ],
)
def test_near_duplicates_in_several_scripts(text: str) -> None:
    assert near([prompt("a", text), prompt("b", f"{text} ok"), prompt("c", "unrelated question 🙂")]) == [
        ("b", "a", True)
    ]


def test_only_the_resemblances_asked_for_count() -> None:
    rows = [prompt("a", LONG), prompt("b", f"{LONG} ok"), prompt("t", f"{LONG} so", "test")]

    assert near(rows, within=False) == [("a", "t", False), ("b", "t", False)]
    assert near(rows, across=False) == [("b", "a", True)]


def test_prompts_under_different_system_prompts_are_different_questions() -> None:
    rows = [prompt("a", LONG, system="Answer in French."), prompt("b", LONG, system="Answer in German.")]

    assert near(rows) == []
    assert exact(rows, [("a", 0, False), ("b", 0, False)]) == []


def test_chains_do_not_collapse() -> None:
    """a resembles b and b resembles c, but c does not resemble a: b goes, c stays."""
    words = LONG.split()
    texts = [" ".join(words), " ".join([*words[1:], "today"]), " ".join([*words[3:], "today", "or", "tomorrow"])]
    assert jaccard(shingles(texts[0]), shingles(texts[2])) < 0.7 <= jaccard(shingles(texts[1]), shingles(texts[2]))

    assert near([prompt(name, text) for name, text in zip("abc", texts, strict=True)], 0.7) == [("b", "a", True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.7, 0.85, 1.0]))
def test_near_duplicates_agree_with_comparing_all_pairs(seed: int, threshold: float) -> None:
    chooser = random.Random(seed)
    base = LONG.split()
    texts = []
    for _ in range(12):
        words = [chooser.choice(["x", "yes", word]) if chooser.random() < 0.06 else word for word in base]
        texts.append(" ".join(words))
    rows = [prompt(f"{i:02d}", text, chooser.choice(["train", "test", "validation"])) for i, text in enumerate(texts)]

    kept: list[str] = []
    expected = []
    ordered = comparable(prompts_frame(rows))
    split = dict(ordered.select("prompt_id", "split").iter_rows())
    text = dict(ordered.select("prompt_id", "normal").iter_rows())
    for one in ordered["prompt_id"]:
        other = next((o for o in kept if jaccard(shingles(text[one]), shingles(text[o])) >= threshold), None)
        if other is None:
            kept.append(one)
        else:
            expected.append((one, other, split[one] == split[other]))

    assert near(rows, threshold) == sorted(expected)


def test_another_process_finds_the_same() -> None:
    code = (
        "from tests.dataset.test_duplicates import *\n"
        "print(near([prompt(str(i), LONG + 'abcdefgh'[i]) for i in range(8)], 0.97))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(runs) == 1
