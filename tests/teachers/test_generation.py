"""Greedy answers: a row's answer is its own, whatever else is in the batch."""

from pathlib import Path

import pytest
import torch

from distill_dagster.errors import TeacherError
from distill_dagster.jobs import ModelRef
from distill_dagster.teachers.local import shared_prefix
from distill_dagster.teachers.local.chat_model import ChatModel, load_chat_model
from distill_dagster.teachers.local.generation import StopReason, generate

QUESTIONS = [
    "Hi",
    "What is the capital of France?",
    "Tell me a joke, a long one about a dog.",
    "é 漢 🙂",
    "Who are you?",
]


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> ChatModel:
    return load_chat_model(ModelRef(source=str(tiny_model)), "float32")


def prompts(chat: ChatModel) -> list[list[int]]:
    return [chat.encode([{"role": "user", "content": question}]) for question in QUESTIONS]


def test_a_row_in_a_batch_answers_as_if_it_were_alone(chat: ChatModel):
    together = generate(chat, prompts(chat), max_tokens=24)
    alone = [generate(chat, [prompt], max_tokens=24)[0] for prompt in prompts(chat)]
    assert together == alone


def test_answers_are_those_of_the_librarys_own_greedy_generation(chat: ChatModel):
    for prompt, answer in zip(prompts(chat), generate(chat, prompts(chat), max_tokens=24), strict=True):
        ids = chat.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert answer.token_ids == ids[0, len(prompt) :].tolist()


def test_the_stop_token_is_kept_and_is_no_text(chat: ChatModel):
    answers = generate(chat, prompts(chat), max_tokens=64)
    ended = [answer for answer in answers if answer.stop_reason is StopReason.END_TURN]
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] in chat.stop_ids
        assert not chat.stop_ids & set(answer.token_ids[:-1])
        assert "<|im_end|>" not in answer.text


def test_a_capped_answer_has_no_stop_token(chat: ChatModel):
    for answer in generate(chat, prompts(chat), max_tokens=2):
        if answer.stop_reason is StopReason.MAX_TOKENS:
            assert len(answer.token_ids) == 2
            assert not chat.stop_ids & set(answer.token_ids)


def test_a_stop_sequence_ends_the_row_and_leaves_the_text(chat: ChatModel):
    prompt = prompts(chat)[1]
    [whole] = generate(chat, [prompt], max_tokens=24)
    stop = whole.text[4:7]

    [answer] = generate(chat, [prompt], max_tokens=24, stop_sequences=["never said", stop])

    assert answer.stop_reason is StopReason.STOP_SEQUENCE
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]


def test_an_answer_ends_where_the_context_is_full(chat: ChatModel):
    prompt = [5] * (chat.context - 3)
    [answer] = generate(chat, [prompt], max_tokens=100)
    assert len(answer.token_ids) <= 3
    with pytest.raises(TeacherError, match=r"fills the model's context of 1024"):
        generate(chat, [[5] * 1024], max_tokens=1)


def test_no_prompts_have_no_answers(chat: ChatModel):
    assert generate(chat, [], max_tokens=4) == []


def test_what_prompts_share_is_read_once_and_changes_no_answer(chat: ChatModel, monkeypatch: pytest.MonkeyPatch):
    shared = [{"role": "system", "content": "Answer shortly, and kindly, as you always do."}]
    asked = [chat.encode([*shared, {"role": "user", "content": question}]) for question in QUESTIONS]
    together = generate(chat, asked, max_tokens=24)
    monkeypatch.setattr(shared_prefix, "MIN_SHARED_TOKENS", 10_000)
    assert generate(chat, asked, max_tokens=24) == together


def test_equal_prompts_have_equal_answers(chat: ChatModel):
    prompt = prompts(chat)[1]
    one, other, alone = *generate(chat, [prompt, prompt], max_tokens=24), *generate(chat, [prompt], max_tokens=24)
    assert one == other == alone
