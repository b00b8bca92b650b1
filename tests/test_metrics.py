"""Metrics on several languages and scripts."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from distill_dagster.metrics import (
    METRICS,
    NO_ROW,
    bleu,
    chrf,
    contains,
    exact_match,
    json_valid,
    label_accuracy,
    length_ratio,
    metric_label,
    repetition_rate,
    rouge_l,
    token_f1,
    words,
)
from distill_dagster.spec.metrics import MACRO_F1, MetricName, ReferenceMetricName

COMPARING = sorted(get_args(ReferenceMetricName))
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
@pytest.mark.parametrize("name", COMPARING)
def test_a_text_matches_itself_in_any_language(name: str, text: str) -> None:
    assert METRICS[name].score(text, text, NO_ROW) == pytest.approx(1.0)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize(("prediction", "reference"), [("moon", "xyz"), ("Луна", "сыр"), ("月", "岩"), ("", "moon")])
def test_texts_with_nothing_in_common_score_0(name: str, prediction: str, reference: str) -> None:
    assert METRICS[name].score(prediction, reference, NO_ROW) == 0.0


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "contains", "label_accuracy"])
def test_nothing_said_where_nothing_was_to_say_is_right(name: str) -> None:
    assert METRICS[name].score("", "", NO_ROW) == 1.0


def test_every_name_of_the_yaml_is_known() -> None:
    assert {*METRICS, MACRO_F1} == set(get_args(MetricName))
    assert [name for name in METRICS if METRICS[name].needs_reference] == [n for n in METRICS if n != "json_valid"]
    assert (metric_label("rouge_l"), metric_label("macro_f1"), metric_label("my_own")) == (
        "ROUGE-L",
        "Macro F1",
        "my_own",
    )


def test_a_metric_that_compares_says_so_where_there_is_no_reference() -> None:
    with pytest.raises(ValueError, match="rouge_l compares with a reference"):
        METRICS["rouge_l"].score("a", None, NO_ROW)


@pytest.mark.parametrize("name", sorted(METRICS))
@given(prediction=st.text(max_size=40), reference=st.text(max_size=40))
def test_scores_stay_between_0_and_1(name: str, prediction: str, reference: str) -> None:
    assert 0.0 <= METRICS[name].score(prediction, reference, NO_ROW) <= 1.0


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


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("rock of the moon", "the moon is rock", 2 * 3 / 8),
        ("moon moon moon", "moon", 2 * 1 / 4),
        ("岩の月", "月の岩", 1.0),
        ("moon", "", 0.0),
    ],
)
def test_token_f1_counts_words_in_any_order(prediction: str, reference: str, expected: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(expected)


def test_bleu_is_sacrebleus_over_100() -> None:
    # brevity penalty e^(1 - 3/2), precisions 2/2 and 1/1, higher orders left out
    assert bleu("the moon", "the moon is") == pytest.approx(0.60653, abs=1e-5)
    assert bleu("the moon is made of rock", "the moon is made of cheese") == pytest.approx(0.75984, abs=1e-5)


@pytest.mark.parametrize(
    ("prediction", "reference", "found"),
    [
        ("The capital is Paris, of course.", "paris", True),
        ("It lies in New  York.", "New York!", True),
        ("首都は東京です", "東京", True),
        ("The cathedral", "cat", False),
        ("It is 142.", "42", False),
        ("It is -5 degrees", "5", False),
        ("It is 50% full", "50", False),
        ("It is (5).", "5", True),
        ("anything", "", False),
        ("a/b", "a.b", True),
        ("a|b", "b", True),
        ("aXb", "a.b", False),
    ],
)
def test_a_reference_is_contained_word_for_word(prediction: str, reference: str, found: bool) -> None:
    assert contains(prediction, reference) == float(found)


@pytest.mark.parametrize(
    ("prediction", "reference", "same"),
    [("**Positive**.", "positive", True), ("“POSITIVE”", "positive", True), ("positive!", "positive", False)],
)
def test_labels_are_compared_as_those_of_the_teacher_are(prediction: str, reference: str, same: bool) -> None:
    assert label_accuracy(prediction, reference) == float(same)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"a": [1, null]}', True),
        (" 3 ", True),
        ('"月"', True),
        ("", False),
        ("NaN", False),
        ("{'a': 1}", False),
        ("```json\n{}\n```", False),
        ("[" * 100_000, False),
        ("9" * 10_000, True),
    ],
)
def test_json_is_valid_as_it_stands(text: str, valid: bool) -> None:
    assert json_valid(text) == float(valid)


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
