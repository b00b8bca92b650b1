"""Which prompt is which: prompt ids, groups that never straddle splits, and the text normalisation behind them."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.prompts.rows import RowError, text_of

ID_HEX_CHARS = 32
MAX_ID_CHARS = 200
_MINUS = re.compile(r"(?<![^\s(])-(?=\d)")
_KEPT_PUNCTUATION = frozenset("#%&@*/\\")  # "C#" is not "C", "5/3" is not "5 3"
_MINUS_SIGN = "\u2212"  # a mathematical symbol, hence kept by the folding below


class _Folding(dict[int, str]):
    """What each character becomes, found when first met: punctuation and spaces a space, invisible ones nothing."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in _KEPT_PUNCTUATION:
            folded = char
        elif category == "Cf" or 0xFE00 <= code <= 0xFE0F:
            folded = ""
        elif category[0] in "PZ" or category == "Cc":
            folded = " "
        else:
            folded = char
        self[code] = folded
        return folded


_FOLDING = _Folding()


def normalise(text: str) -> str:
    """A text without the differences that do not make another question: NFKC, case, punctuation, spacing.

    Letters with their marks, digits, symbols and emoji stay, in every script. Where nothing would stay ("?!"), the
    text itself is returned.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if "-" in folded:
        folded = _MINUS.sub(_MINUS_SIGN, folded)
    folded = unicodedata.normalize("NFKC", " ".join(folded.translate(_FOLDING).split()))
    return folded or text


def prompt_id(row_hash: str, row: dict[str, Any], column: str | None) -> str:
    """A row's identity: the value of its `id` column, else the beginning of the hash of its columns.

    Neither depends on the template, the system prompt or the few-shot examples.

    Raises:
        RowError: the id is null, empty, longer than 200 characters, or not a scalar.
    """
    if column is None:
        return row_hash[:ID_HEX_CHARS]
    text = scalar_text(row, column, "id")
    if len(text) > MAX_ID_CHARS:
        raise RowError(f"prompts.id: column {column!r} has {len(text)} characters, more than {MAX_ID_CHARS}")
    return text


def group_text(row: dict[str, Any], column: str | None, read: Sequence[str]) -> str:
    """The text whose hash is the row's group: rows with equal texts never straddle splits.

    Args:
        row: the row's columns.
        column: the declared group column.
        read: without one, the normalised texts that the prompt is made of (the values of the columns its template
            reads, so that a reworded template moves no row).

    Raises:
        RowError: the group column is null or empty.
    """
    if column is not None:
        return scalar_text(row, column, "group")
    return canonical_json([normalise(text) for text in read])


def scalar_text(row: dict[str, Any], column: str, key: str) -> str:
    """The text of a column that must be there.

    Raises:
        RowError: it is null, blank, a list or an object.
    """
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError(
            f"prompts.{key}: column {column!r} is {'null' if value is None else 'empty'}; give every row a value"
        )
    if isinstance(value, (list, dict)):
        raise RowError(f"prompts.{key}: column {column!r} must be text or a number, not a list or object")
    return text_of(value)
