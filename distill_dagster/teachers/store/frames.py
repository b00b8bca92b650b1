"""Stored answers as frames: the types of their columns, and token ids out of their bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from polars.datatypes import DataType, DataTypeClass

Kinds = Mapping[str, DataType | DataTypeClass]
STORED: dict[str, DataType | DataTypeClass] = {
    "request_key": pl.String,
    "provider": pl.String,
    "model": pl.String,
    "identity": pl.String,
    "status": pl.String,
    "stop_reason": pl.String,
    "text": pl.String,
    "thinking": pl.String,
    "content": pl.String,
    "token_ids": pl.List(pl.Int32),
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cost_microusd": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "detail": pl.String,
    "response_id": pl.String,
    "transport": pl.String,
    "client_version": pl.String,
    "created_at": pl.String,
}
"""The columns of the store's table of answers; token ids are stored as little-endian int32."""


def answers_frame(rows: Sequence[Any], kinds: Kinds) -> pl.DataFrame:
    """Rows of the table as a frame.

    Args:
        rows: values in the order of `kinds`.
        kinds: columns of STORED, whatever they are called; those of `token_ids` are bytes or None in `rows`.
    """
    columns = dict(zip(kinds, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    if "token_ids" in columns:
        columns["token_ids"] = [
            None if ids is None else np.frombuffer(ids, dtype="<i4").tolist() for ids in columns["token_ids"]
        ]
    return pl.DataFrame(columns, schema=dict(kinds))
