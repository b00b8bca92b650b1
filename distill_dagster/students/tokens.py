"""Turns dataset rows into what a student trains on: token ids, and where the completion begins.

Only completion tokens count in the loss, and the token that ends the turn is one of them, or the student would never
learn to stop. The mask is built from the prompt's length: chat templates need not mark what the assistant says, and
padding cannot be told from the end of turn where both are the same token.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

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
    `over_length` are the prompt ids of rows that would not fit; they are left out, never cut.
    """

    rows: pl.DataFrame
    over_length: list[str]

    @property
    def completion_tokens(self) -> int:
        """Tokens the loss sees in one pass over the rows."""
        return int(self.rows["input_ids"].list.len().sum()) - int(self.rows["prompt_tokens"].sum())


def tokenise(
    rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, *, use_stored_ids: bool, max_length: int
) -> TokenisedRows:
    """Tokenises DATASET rows.

    Args:
        rows: with prompt_id, sample, messages, completion and completion_ids.
        tokenizer: the student's, with a chat template.
        use_stored_ids: whether the ids that a local teacher produced mean the same to this tokenizer. They are then
            trained on as they are: an answer capped by `max_tokens` stays without an end of turn. A row whose ids do
            not spell its completion (because it was edited) is tokenised from its text.
        max_length: most tokens of prompt and completion together.

    Raises:
        StudentError: the chat template refuses a prompt.
    """
    end = end_of_turn_id(tokenizer, StudentError)
    parts, over_length = [], []
    for part in rows.iter_slices(_ROWS_AT_ONCE):
        encoded = pl.DataFrame(list(_encode(part, tokenizer, end, use_stored_ids)), schema=SCHEMA, orient="row")
        fits = encoded["input_ids"].list.len() <= max_length
        over_length += encoded.filter(~fits)["prompt_id"].to_list()
        parts.append(encoded.filter(fits))
    return TokenisedRows(pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA), over_length)


def labels(rows: pl.DataFrame) -> pl.DataFrame:
    """input_ids and labels, where a label of -100 (the prompt's) is outside the loss."""
    position = pl.int_ranges(pl.col("input_ids").list.len())
    exploded = (
        rows.with_row_index("row")
        .select("row", "prompt_tokens", "input_ids", position=position)
        .explode("input_ids", "position")
        .with_columns(
            labels=pl.when(pl.col("position") >= pl.col("prompt_tokens"))
            .then(pl.col("input_ids"))
            .otherwise(pl.lit(-100, pl.Int32))
        )
    )
    return exploded.group_by("row", maintain_order=True).agg("input_ids", "labels").select("input_ids", "labels")


def _encode(
    rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, end: int, use_stored_ids: bool
) -> Iterator[tuple[Any, ...]]:
    columns = ["prompt_id", "sample", "messages", "completion", "completion_ids"]
    for prompt_id, sample, messages, completion, stored in rows.select(columns).iter_rows():
        prompt = encode_chat(tokenizer, json.loads(messages), error=StudentError)
        usable = use_stored_ids and stored and decode_text(tokenizer, stored).strip() == completion.strip()
        answer = stored if usable else [*_encode_text(tokenizer, completion), end]
        yield prompt_id, sample, [*prompt, *answer], len(prompt)


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast(list[int], tokenizer.encode(text, add_special_tokens=False))
