"""Every answer ends kept or dropped, for exactly one reason."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.dataset.curate import DROPPED_SCHEMA, KEPT_SCHEMA, Curated
from distill_dagster.spec.curation import CurationSpec
from tests.dataset.frames import curate, output, outputs_frame, prompt, prompts_frame

ALL = ["refused", "truncated", "empty", "duplicate", "near_duplicate", "test_leakage"]
LONG = "please explain in a few words how a bicycle stays upright while somebody rides it along the road"


def run(prompts: list[dict[str, Any]], outputs: list[dict[str, Any]], parts: int = 1, **curation: Any) -> Curated:
    return curate(prompts_frame(prompts), outputs_frame(outputs), CurationSpec.model_validate(curation), parts)


def reasons(curated: Curated) -> dict[str, tuple[str, str | None]]:
    return {row[0]: row[1:] for row in curated.dropped.select("prompt_id", "reason", "detail").iter_rows()}


def test_a_usable_answer_becomes_a_dataset_row() -> None:
    curated = run([prompt("a", "Q?", "validation")], [output("a", "A.", token_ids=[5, 6, 2])])

    row = curated.kept.row(0, named=True)
    assert dict(curated.kept.schema) == KEPT_SCHEMA
    assert row["messages"] == '[{"content":"Q?","role":"user"}]'
    assert (row["completion"], row["completion_ids"], row["split"], row["sample"]) == ("A.", [5, 6, 2], "validation", 0)
    assert curated.dropped.is_empty()


@pytest.mark.parametrize("drop", [ALL, []])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": "error", "completion": None, "detail": "overloaded"}, ("error", "overloaded")),
        ({"status": "refused", "completion": "I", "detail": "safety"}, ("refused", "safety")),
        ({"status": "tool_use", "completion": "Let me look"}, ("tool_use", None)),
        ({"completion": " \n"}, ("empty", None)),
        ({"completion": None}, ("empty", None)),
    ],
)
def test_an_answer_without_a_target_is_dropped_whatever_the_list(
    answer: dict[str, Any], reason: tuple[str, str | None], drop: list[str]
) -> None:
    curated = run([prompt("a"), prompt("b")], [output("a", **answer), output("b")], drop=drop)

    assert reasons(curated) == {"a": reason}


def test_a_prompt_without_output_is_dropped_as_error() -> None:
    assert reasons(run([prompt("a"), prompt("b")], [output("b")])) == {"a": ("error", "no teacher output")}


def test_truncated_answers_are_kept_on_request() -> None:
    prompts, outputs = [prompt("a")], [output("a", "half an ans", status="truncated")]

    assert reasons(run(prompts, outputs)) == {"a": ("truncated", None)}
    assert run(prompts, outputs, drop=[]).kept["completion"].to_list() == ["half an ans"]


def test_duplicates_near_duplicates_and_leakage() -> None:
    prompts = [
        prompt("a", LONG),
        prompt("b", f"{LONG}?"),
        prompt("c", f"{LONG} ok"),
        prompt("d", "What is a volcano made of, and why does it sometimes erupt so violently?"),
        prompt("v", "What is a volcano made of, and why does it sometimes erupt so violently, sir?", "validation"),
        prompt("t", "Which planet has the most moons, and how many have been counted there so far?", "test"),
        prompt("w", "Which planet has the most moons, and how many have been counted there so far, sir?", "validation"),
    ]

    curated = run(prompts, [output(row["prompt_id"]) for row in prompts])

    assert reasons(curated) == {
        "b": ("duplicate", "a"),
        "c": ("near_duplicate", "a"),
        "d": ("test_leakage", "v"),
        "w": ("test_leakage", "t"),
    }


def test_checks_left_out_of_the_list_drop_nothing() -> None:
    prompts = [prompt("a", LONG), prompt("b", f"{LONG}?"), prompt("t", f"{LONG} ok", "test")]
    outputs = [output(row["prompt_id"]) for row in prompts]

    assert reasons(run(prompts, outputs, drop=[])) == {}
    assert reasons(run(prompts, outputs, drop=["duplicate"])) == {"b": ("duplicate", "a")}
    assert {*reasons(run(prompts, outputs, drop=["test_leakage"])).values()} == {("test_leakage", "t")}


def test_an_unusable_answer_does_not_drop_its_duplicate() -> None:
    curated = run([prompt("a", LONG), prompt("b", LONG)], [output("a", status="refused"), output("b")])

    assert reasons(curated) == {"a": ("refused", None)}
    assert curated.kept["prompt_id"].to_list() == ["b"]


def test_thinking_is_a_target_only_on_request() -> None:
    prompts = [prompt("a"), prompt("b")]
    outputs = [output("a", "42", thinking="Let me see.", token_ids=[1, 2]), output("b", "7", token_ids=[3])]

    plain = run(prompts, outputs).kept
    thought = run(prompts, outputs, thinking="include").kept

    assert plain["completion"].to_list() == ["42", "7"]
    assert plain["completion_ids"].to_list() == [None, [3]]
    assert thought["completion"].to_list() == ["<think>\nLet me see.\n</think>\n\n42", "7"]
    assert thought["completion_ids"].to_list() == [[1, 2], [3]]


ASSESSED = {"problem": pl.String, "label": pl.String, "label_shares": pl.String, "selected": pl.Boolean}


def assessed(outputs: list[dict[str, Any]], columns: list[dict[str, Any]]) -> pl.DataFrame:
    """Outputs with what the teacher stage found about each; not mentioned: valid and selected."""
    filled = [dict.fromkeys(ASSESSED) | {"selected": True} | row for row in columns]
    return pl.concat([outputs_frame(outputs), pl.DataFrame(filled, schema=ASSESSED)], how="horizontal")


def test_invalid_and_unselected_answers_are_dropped_whatever_the_list() -> None:
    outputs = [output("a", "maybe"), output("b", "{"), output("c", "one"), output("d"), output("e", " ")]
    found = [
        {"problem": "invalid_label", "selected": False},
        {"problem": "invalid_json"},
        {"selected": False},
        {},
        {"selected": False},
    ]

    curated = curate(prompts_frame(map(prompt, "abcde")), assessed(outputs, found), CurationSpec(drop=[]))

    assert {prompt_id: reason for prompt_id, (reason, _) in reasons(curated).items()} == {
        "a": "invalid_label",
        "b": "invalid_json",
        "c": "not_selected",
        "e": "empty",
    }


def test_a_student_learns_the_label_as_it_is_declared() -> None:
    outputs = [output("a", "**positive**", token_ids=[7, 8, 9]), output("b", "Positive", token_ids=[5])]
    found = [{"label": "Positive", "label_shares": '{"Positive":1.0}'}] * 2

    kept = curate(prompts_frame(map(prompt, "ab")), assessed(outputs, found), CurationSpec()).kept

    assert kept["completion"].to_list() == ["Positive", "Positive"]
    assert kept["completion_ids"].to_list() == [None, [5]]
    assert kept["label_shares"].to_list() == ['{"Positive":1.0}'] * 2


def test_outputs_of_before_the_assessment_are_valid_and_selected() -> None:
    old, new = outputs_frame([output("a")]), assessed([output("b")], [{"selected": False}])

    curated = curate(prompts_frame(map(prompt, "ab")), pl.concat([old, new], how="diagonal"), CurationSpec())

    assert reasons(curated) == {"b": ("not_selected", None)}
    assert curated.kept["label_shares"].to_list() == [None]


def test_samples_of_one_prompt_are_kept_unless_they_say_the_same() -> None:
    outputs = [output("a", text, sample) for sample, text in enumerate(["one", "two", "one"])]

    curated = run([prompt("a", LONG)], outputs)

    assert curated.kept.select("sample", "completion").rows() == [(0, "one"), (1, "two")]
    assert curated.dropped.select("sample", "reason", "detail").rows() == [(2, "duplicate", "a")]
    assert run([prompt("a", LONG)], outputs, drop=[]).kept.height == 3


def test_answers_with_one_label_say_the_same_however_they_are_written() -> None:
    outputs = [output("a", "Yes.", 0), output("a", "yes", 1), output("a", "no", 2)]
    shares = '{"no":0.333333,"yes":0.666667}'
    found = [{"label": label, "label_shares": shares} for label in ("yes", "yes", "no")]

    curated = curate(prompts_frame([prompt("a")]), assessed(outputs, found), CurationSpec())

    assert curated.kept.select("sample", "completion", "label_shares").rows() == [(0, "yes", shares), (2, "no", shares)]


def test_a_repeated_prompt_is_a_duplicate_whichever_sample_was_selected() -> None:
    prompts = [prompt("a", LONG), prompt("t", f"{LONG}?", "test")]
    outputs = [output(row["prompt_id"], f"{row['prompt_id']}{n}", n) for row in prompts for n in (0, 1)]
    found = [{"selected": False}, {}, {}, {"selected": False}]

    curated = curate(prompts_frame(prompts), assessed(outputs, found), CurationSpec())

    assert curated.kept.select("prompt_id", "sample").rows() == [("t", 0)]
    assert curated.dropped.filter(sample=1, prompt_id="a").select("reason", "detail").rows() == [("duplicate", "t")]


answers = st.tuples(
    st.sampled_from(["answered", "truncated", "refused", "tool_use", "error"]),
    st.sampled_from([None, "", "an answer", "another"]),
)
records = st.lists(
    st.tuples(
        st.sampled_from([LONG, f"{LONG}!", f"{LONG} ok", "hi", "HI?", "何？"]),
        st.sampled_from(["train", "validation", "test"]),
        st.lists(answers, max_size=2),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(records, st.sets(st.sampled_from(ALL)), st.randoms())
def test_every_answer_ends_exactly_once_whatever_the_order(records: Any, drop: set[str], shuffler: Any) -> None:
    prompts = [prompt(f"p{i}", text, split) for i, (text, split, _) in enumerate(records)]
    outputs = [
        output(f"p{i}", completion, sample, status=status)
        for i, (_, _, given_answers) in enumerate(records)
        for sample, (status, completion) in enumerate(given_answers)
    ]
    curated = run(prompts, outputs, drop=sorted(drop))

    ends = [*curated.kept.select("prompt_id", "sample").rows(), *curated.dropped.select("prompt_id", "sample").rows()]
    silent = {f"p{i}" for i, (_, _, given_answers) in enumerate(records) if not given_answers}
    answered = {(row["prompt_id"], row["sample"]) for row in outputs}
    assert len(ends) == len(set(ends))
    assert set(ends) == answered | {(name, None) for name in silent}
    assert dict(curated.dropped.schema) == DROPPED_SCHEMA

    shuffler.shuffle(prompts)
    shuffler.shuffle(outputs)
    again = run(prompts, outputs, parts=3, drop=sorted(drop))
    assert again.kept.equals(curated.kept)
    assert again.dropped.equals(curated.dropped)
