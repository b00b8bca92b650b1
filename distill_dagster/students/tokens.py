"""Turns dataset rows into what a student trains on: token ids, and where the completion begins.

Only completion tokens count in the loss, and the token that ends the turn is one of them, or the student would never
learn to stop. The mask is built from the prompt's length: chat templates need not mark what the assistant says, and
padding cannot be told from the end of turn where both are the same token.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl
from transformers import PreTrainedTokenizerBase

from distill_dagster.errors import StudentError
from distill_dagster.teachers.local.chat_model import decode_text, encode_chat, end_of_turn_id

SCHEMA = {
    "prompt_id": pl.String(),
    "sample": pl.Int32(),
    "input_ids": pl.List(pl.Int32()),
    "prompt_tokens": pl.Int32(),
}
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class TokenisedRows:
    """Rows ready to train on.

    `rows` has prompt_id, sample, input_ids (prompt, then completion) and prompt_tokens (how many are prompt).
    `over_length` are the prompt ids of rows that would not fit; they are left out, never cut. `without_target` are
    those of rows that have nothing to learn from: no human reference, or no captured logits.
    """

    rows: pl.DataFrame
    over_length: list[str]
    without_target: list[str]

    @property
    def completion_tokens(self) -> int:
        """Tokens the loss sees in one pass over the rows."""
        return int(self.rows["input_ids"].list.len().sum()) - int(self.rows["prompt_tokens"].sum())

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return cast(list[int], self.rows["input_ids"].list.len().to_list())

    def prompt(self, position: int) -> list[int]:
        """Token ids of a row up to where its completion begins."""
        start, middle, _ = self._span(position)
        return cast(list[int], self._tokens[start:middle].tolist())

    def completion(self, position: int) -> list[int]:
        """Token ids of a row's completion."""
        _, middle, stop = self._span(position)
        return cast(list[int], self._tokens[middle:stop].tolist())

    def _span(self, position: int) -> tuple[int, int, int]:
        start, stop = int(self._starts[position]), int(self._starts[position + 1])
        return start, start + int(self._prompt_tokens[position]), stop

    @cached_property
    def _tokens(self) -> npt.NDArray[np.int32]:
        return self.rows["input_ids"].explode().to_numpy()

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def _prompt_tokens(self) -> npt.NDArray[np.int32]:
        return self.rows["prompt_tokens"].to_numpy()


def completion_tokens(tokenizer: PreTrainedTokenizerBase, text: str, end: int) -> list[int]:
    """Token ids of a completion that is known as text, with the id that ends a turn behind it."""
    return [*cast(list[int], tokenizer.encode(text, add_special_tokens=False)), end]


def tokenise(
    rows: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    *,
    use_stored_ids: bool,
    max_length: int,
    targets: Literal["teacher", "reference"] = "teacher",
) -> TokenisedRows:
    """Tokenises DATASET rows.

    Args:
        rows: with prompt_id, sample, messages, completion and completion_ids.
        tokenizer: the student's, with a chat template.
        use_stored_ids: whether the ids that a local teacher produced mean the same to this tokenizer. They are then
            trained on as they are: an answer capped by `max_tokens` stays without an end of turn. A row whose ids do
            not spell its completion (because it was edited) is tokenised from its text.
        max_length: most tokens of prompt and completion together.
        targets: whose completion: the teacher's, or the human `reference`, which some rows may lack.

    Raises:
        StudentError: the chat template refuses a prompt.
    """
    end = end_of_turn_id(tokenizer, StudentError)
    parts, over_length = [], []
    without_target: list[str] = []
    if targets == "reference":
        present = pl.col("reference").str.strip_chars().str.len_chars().fill_null(0) > 0
        without_target = rows.filter(~present)["prompt_id"].to_list()
        rows = rows.filter(present).with_columns(completion="reference", completion_ids=None)
    for part in rows.iter_slices(_ROWS_AT_ONCE):
        encoded = pl.DataFrame(list(_encode(part, tokenizer, end, use_stored_ids)), schema=SCHEMA, orient="row")
        fits = encoded["input_ids"].list.len() <= max_length
        over_length += encoded.filter(~fits)["prompt_id"].to_list()
        parts.append(encoded.filter(fits))
    return TokenisedRows(pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA), over_length, without_target)


def _encode(
    rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, end: int, use_stored_ids: bool
) -> Iterator[tuple[Any, ...]]:
    columns = ["prompt_id", "sample", "messages", "completion", "completion_ids"]
    for prompt_id, sample, messages, completion, stored in rows.select(columns).iter_rows():
        prompt = encode_chat(tokenizer, json.loads(messages), error=StudentError)
        usable = use_stored_ids and stored and decode_text(tokenizer, stored).strip() == completion.strip()
        answer = stored if usable else completion_tokens(tokenizer, completion, end)
        yield prompt_id, sample, [*prompt, *answer], len(prompt)
