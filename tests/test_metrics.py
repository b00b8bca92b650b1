"""Text metrics on several languages and scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from distill_dagster.metrics import (
    METRICS,
    chrf,
    exact_match,
    length_ratio,
    repetition_rate,
    rouge_l,
    words,
)

ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's mat_2", ["the", "cat", "s", "mat", "2"]),
        ("Ärger in Straßen", ["ärger", "in", "strassen"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京に行く", ["東", "京", "に", "行", "く"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("GPU用の ram", ["gpu", "用", "の", "ram"]),
        ("👍!", ["👍", "!"]),
        ("", []),
    ],
)
def test_words_are_found_in_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(ascii_text, ascii_text)
def test_on_ascii_rouge_l_is_rouge_scores_own(prediction: str, reference: str) -> None:
    own = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    has_words = any(c.isalnum() for c in prediction) and any(c.isalnum() for c in reference)

    assert rouge_l(prediction, reference) == pytest.approx(own) or not has_words


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the moon is made of rock", "the moon is made of rock", 1.0),
        ("the moon", "the moon is rock", 2 * (1.0 * 0.5) / 1.5),
        ("Луна из камня", "Луна из сыра", 2 / 3),
        ("東京に住む", "東京に行く", 3 / 5),
        ("", "the moon", 0.0),
    ],
)
def test_rouge_l_by_hand(prediction: str, reference: str, expected: float) -> None:
    assert rouge_l(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["The moon.", "Луна из камня", "月は岩でできている", "القمر من الصخر", "👍"])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_text_matches_itself_in_any_language(name: str, text: str) -> None:
    assert METRICS[name].score(text, text) == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(prediction=st.text(max_size=40), reference=st.text(max_size=40))
def test_scores_stay_between_0_and_1(name: str, prediction: str, reference: str) -> None:
    assert 0.0 <= METRICS[name].score(prediction, reference) <= 1.0 + 1e-9


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [
        ("Hello,  World!", "hello world", True),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width", True),
        ("STRASSE", "straße", True),
        ("1.5", "15", False),
        ("-5", "5", False),
        ("5%", "5", False),
        ("?", "!", False),
        ("", "!", False),
    ],
)
def test_exact_match_looks_past_case_punctuation_and_width_only(prediction: str, reference: str, same: bool) -> None:
    assert exact_match(prediction, reference) == float(same)


def test_chrf_rewards_shared_characters() -> None:
    assert 0 < chrf("distillation", "distilling") < 1
    assert chrf("moon", "xyz") == 0.0


def test_repetition_counts_word_4_grams_said_before() -> None:
    assert repetition_rate("a b c d e") == 0.0
    assert repetition_rate("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition_rate("月月月月月月月月") == pytest.approx(4 / 5)
    assert repetition_rate("too short text") is None


def test_length_ratio_is_undefined_against_nothing() -> None:
    assert length_ratio("four", "eightlet") == 0.5
    assert length_ratio("four", "") is None
