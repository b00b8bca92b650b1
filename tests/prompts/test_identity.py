"""Normalisation behind groups and duplicates, and ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.prompts.identity import group_text, normalise, prompt_id
from distill_dagster.prompts.rows import RowError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is AI?", "  what is... AI "),
        ("ＷＨＡＴ　ＩＳ　ＡＩ？", "what is ai"),
        ("Straße", "STRASSE"),
        ("今日の天気は？", "今日の天気は"),
        ("ما هو الذكاء؟", "ما هو الذكاء"),
        ("caf\u00e9", "cafe\u0301"),
        ("e-mail", "e mail"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_texts_that_ask_the_same_normalise_alike(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C?", "What is C#?"),
        ("2 + -3", "2 + 3"),
        ("1.5", "15"),
        ("किताब", "कतब"),
        ("I am 🙂", "I am 🙁"),
        ("résumé", "resume"),
        ("?!", "!?"),
        ("他", "她"),
    ],
)
def test_texts_that_ask_something_else_stay_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalisation_never_empties_a_text(text: str) -> None:
    assert bool(normalise(text)) == bool(text)
    assert normalise(f"  {text.upper()}  ") or not text


def test_ids_come_from_the_column_or_the_row() -> None:
    assert prompt_id("ab" * 32, {}, None) == "ab" * 16
    assert prompt_id("ab" * 32, {"ticket": 7}, "ticket") == "7"
    for row in ({}, {"ticket": " "}, {"ticket": "x" * 201}, {"ticket": [1]}):
        with pytest.raises(RowError, match=r"prompts\.id: column 'ticket'"):
            prompt_id("ab" * 32, row, "ticket")


def test_groups_come_from_the_column_or_the_normalised_texts() -> None:
    assert group_text({"customer": 7}, "customer", ["ignored"]) == "7"
    assert group_text({}, None, ["What?", "now"]) == group_text({}, None, ["what", "Now!"])
    assert group_text({}, None, ["a b"]) != group_text({}, None, ["a", "b"])
    with pytest.raises(RowError, match=r"prompts\.group: column 'customer' is null"):
        group_text({}, "customer", [])
