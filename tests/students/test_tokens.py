"""What a student's loss sees of a row."""

import json
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoTokenizer

from distill_dagster.errors import StudentError
from distill_dagster.jobs import ModelRef
from distill_dagster.students.tokens import tokenise
from distill_dagster.teachers.local.chat_model import end_of_turn_id, load_tokenizer, same_tokens
from tests.tiny import END, make_tiny_tokenizer
from tests.worker_jobs import dataset_rows


def test_the_stop_token_is_learned_although_it_is_also_the_padding_token():
    tokenizer = make_tiny_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id

    learned = tokenise(dataset_rows(1), tokenizer, use_stored_ids=False, max_length=256).completion(0)

    assert learned[-1] == tokenizer.convert_tokens_to_ids(END)
    assert tokenizer.decode(learned[:-1]) == "Answer 0."


def test_prompt_and_completion_meet_where_the_answer_begins():
    tokenizer = make_tiny_tokenizer()
    frame = dataset_rows(5)

    rows = tokenise(frame, tokenizer, use_stored_ids=False, max_length=256)

    for position, messages in enumerate(frame["messages"]):
        rendered = tokenizer.apply_chat_template(json.loads(messages), add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(rows.prompt(position)) == rendered
        assert rows.prompt(position) + rows.completion(position) == rows.rows["input_ids"][position].to_list()
        assert len(rows.prompt(position)) + len(rows.completion(position)) == rows.lengths[position]


def test_rows_without_a_human_reference_are_listed_and_the_others_learn_it():
    tokenizer = make_tiny_tokenizer()
    frame = dataset_rows(3, ids=[[5], [6], [7]]).with_columns(reference=pl.Series(["By hand.", None, " "]))

    rows = tokenise(frame, tokenizer, use_stored_ids=True, max_length=256, targets="reference")

    assert rows.without_target == ["p001", "p002"]
    assert tokenizer.decode(rows.completion(0)[:-1]) == "By hand."


def test_stored_ids_are_kept_as_the_teacher_produced_them():
    tokenizer = make_tiny_tokenizer()
    letters = tokenizer.convert_tokens_to_ids(list("Yes."))  # not how the tokenizer would write it

    frame = dataset_rows(1, ids=[letters]).with_columns(completion=pl.lit("Yes."))
    [row] = tokenise(frame, tokenizer, use_stored_ids=True, max_length=256).rows["input_ids"].to_list()

    assert row[-4:] == letters  # and no stop token: the answer was capped


def test_ids_of_an_edited_completion_are_not_used():
    tokenizer = make_tiny_tokenizer()
    stored = [*tokenizer.encode("<think>hm</think>Yes."), end_of_turn_id(tokenizer)]

    frame = dataset_rows(1, ids=[stored]).with_columns(completion=pl.lit("Yes."))
    rows = tokenise(frame, tokenizer, use_stored_ids=True, max_length=256).rows

    learned = rows["input_ids"][0][rows["prompt_tokens"][0] :]
    assert tokenizer.decode(learned) == f"Yes.{END}"


def test_rows_that_do_not_fit_are_left_out_whole_and_named():
    tokenizer = make_tiny_tokenizer()
    frame = dataset_rows(3).with_columns(
        completion=pl.when(pl.col("prompt_id") == "p001").then(pl.lit("long " * 100)).otherwise(pl.col("completion"))
    )

    found = tokenise(frame, tokenizer, use_stored_ids=False, max_length=100)

    assert found.over_length == ["p001"]
    assert found.rows["prompt_id"].to_list() == ["p000", "p002"]


def test_no_rows_are_no_rows():
    found = tokenise(dataset_rows(0), make_tiny_tokenizer(), use_stored_ids=True, max_length=10)
    assert found.rows.is_empty()
    assert found.completion_tokens == 0


def test_the_end_of_turn_is_the_templates_own_not_the_tokenizers_eos():
    tokenizer = make_tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(END)


def test_tokenizers_of_equal_size_may_differ():
    one, other = make_tiny_tokenizer(), make_tiny_tokenizer()
    assert same_tokens(one, other)

    vocabulary = json.loads(other.backend_tokenizer.to_str())
    words = vocabulary["model"]["vocab"]
    words["A"], words["B"] = words["B"], words["A"]
    swapped = type(other)(tokenizer_object=type(other.backend_tokenizer).from_str(json.dumps(vocabulary)))
    swapped.chat_template, swapped.eos_token = other.chat_template, END

    assert len(swapped) == len(one)
    assert not same_tokens(one, swapped)


def test_a_tokenizer_without_chat_template_is_refused_with_what_to_do(tiny_model: Path, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(StudentError, match=r"no chat template.*instruct version"):
        load_tokenizer(ModelRef(source=str(tmp_path)), StudentError)
