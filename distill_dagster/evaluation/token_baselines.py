"""Two next-token guessers by counting: what agreement with a teacher is worth when nothing was learned."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

IntArray = npt.NDArray[np.int64]
_BEGINNING = -1


@dataclass(frozen=True)
class TokenBaselines:
    """Counts over training completions.

    `most_frequent` is the commonest token; `successors` the commonest token after each token (after the prompt:
    the commonest first token). Ties go to the smallest id.
    """

    most_frequent: int
    successors: dict[int, int]

    def most_frequent_guesses(self, completion: IntArray) -> IntArray:
        """The same guess at every position of a completion ([tokens])."""
        return np.full(len(completion), self.most_frequent, dtype=np.int64)

    def bigram_guesses(self, completion: IntArray) -> IntArray:
        """At every position of a completion ([tokens]) the commonest successor of the token before it.

        After a token never seen before another, the most frequent token.
        """
        previous = [_BEGINNING, *completion[:-1].tolist()]
        return np.array([self.successors.get(token, self.most_frequent) for token in previous], dtype=np.int64)


def count_tokens(completions: pl.Series) -> TokenBaselines | None:
    """Counts the tokens of training completions (list[int], nulls left out); None where there are none."""
    ids = completions.drop_nulls().cast(pl.List(pl.Int64))
    rows = pl.DataFrame({"token": ids}).filter(pl.col("token").list.len() > 0).with_row_index("row").explode("token")
    if rows.is_empty():
        return None
    pairs = rows.with_columns(previous=pl.col("token").shift(1).over("row").fill_null(_BEGINNING))
    order = ["len", "token"]
    commonest = rows.group_by("token").len().sort(order, descending=[True, False])["token"][0]
    counted = pairs.group_by("previous", "token").len().sort(order, descending=[True, False])
    best = counted.group_by("previous", maintain_order=True).first()
    return TokenBaselines(int(commonest), dict(best.select("previous", "token").iter_rows()))
