"""How many input tokens requests will have: each counted, a random sample counted, or estimated without asking."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl
from scipy.special import stdtrit

from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.money.usual import Usual
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, Teacher

SAMPLE_SIZE = 100
CONFIDENCE = 0.95
BYTES_PER_TOKEN = 4

Method = Literal["exact", "sampled", "usage", "bytes", "max_tokens", "none"]


@dataclass(frozen=True)
class Tokens:
    """Tokens of all missing requests together.

    Attributes:
        expected: the estimate.
        low, high: ends of its 95 % interval; None where there is none.
        method: how it was found.
        rows: how many requests or answers were looked at for it; None where none was.
        basis: the same in a sentence.
    """

    expected: int
    low: int | None
    high: int | None
    method: Method
    rows: int | None
    basis: str


@dataclass
class Missing:
    """What is known of the missing requests after one look at all of them; small, however many they are.

    Attributes:
        sizes: how many requests have a conversation of so many bytes.
        most_microusd, most_batched_microusd: the most they can cost, singly and in provider batches.
        sample: REQUEST columns of the SAMPLE_SIZE smallest request keys. A key is a SHA-256 of the request, so they
            are a random sample, and the same one each time.
    """

    teacher: Teacher
    sizes: Counter[int] = field(default_factory=Counter)
    most_microusd: int = 0
    most_batched_microusd: int | None = None
    sample: pl.DataFrame = field(default_factory=lambda: pl.DataFrame())

    def add(self, requests: pl.DataFrame) -> pl.Series:
        """Takes in a chunk of missing requests; returns the most that each can cost."""
        self.sizes.update(requests["messages"].str.len_bytes().to_list())
        most = self.teacher.most_microusd(requests)
        self.most_microusd += int(most.sum())
        if isinstance(self.teacher, AnthropicTeacher):
            batched = int(self.teacher.most_microusd(requests, batched=True).sum())
            self.most_batched_microusd = (self.most_batched_microusd or 0) + batched
        pool = pl.concat([self.sample, requests.select(REQUEST_COLUMNS)]) if len(self.sample) else requests
        self.sample = pool.select(REQUEST_COLUMNS).sort("request_key").head(SAMPLE_SIZE)
        return most

    @property
    def count(self) -> int:
        """How many there are."""
        return self.sizes.total()

    @property
    def bytes(self) -> int:
        """Size of their conversations."""
        return sum(size * count for size, count in self.sizes.items())

    def scaled(self, tokens_per_byte: float) -> Counter[int]:
        """How many requests have so many input tokens, if tokens go with bytes."""
        lengths: Counter[int] = Counter()
        for size, count in self.sizes.items():
            lengths[max(1, round(size * tokens_per_byte))] += count
        return lengths


@dataclass(frozen=True)
class InputTokens:
    """Input tokens of the missing requests: their sum, how many requests have how many, and how many were refused."""

    tokens: Tokens
    lengths: Mapping[int, int]
    refused: int = 0


def count_exactly(
    teacher: AnthropicTeacher, missing: Missing, open_requests: Callable[[], Iterator[pl.DataFrame]]
) -> InputTokens:
    """Counts every missing request with the provider's free counter.

    Raises:
        TeacherError: the provider cannot be asked.
    """
    from distill_dagster.teachers.anthropic.counting import count_input_tokens

    lengths: Counter[int] = Counter()
    refused = count_input_tokens(
        teacher, open_requests(), missing.count, lambda _key, tokens: lengths.update((tokens,))
    )
    counted = lengths.total()
    total = sum(tokens * count for tokens, count in lengths.items())
    basis = f"each of {counted:,} requests counted by the provider"
    return InputTokens(Tokens(total, total, total, "exact", counted, basis), lengths, refused)


def count_sample(teacher: AnthropicTeacher, missing: Missing) -> InputTokens:
    """Counts a random sample of the missing requests and goes by tokens per byte.

    The sum is the ratio estimate of a simple random sample without replacement, Σtokens / Σbytes times all bytes, with
    a t interval from the linearised variance (Cochran, "Sampling Techniques", 1977, section 6.4); a sample of all is
    no estimate any more.

    Raises:
        TeacherError: the provider cannot be asked.
    """
    from distill_dagster.teachers.anthropic.counting import count_input_tokens

    counts: dict[str, int] = {}
    refused = count_input_tokens(teacher, iter([missing.sample]), len(missing.sample), counts.__setitem__)
    known = missing.sample.filter(pl.col("request_key").is_in(list(counts)))
    sizes: list[int] = known["messages"].str.len_bytes().to_list()
    tokens = [counts[key] for key in known["request_key"]]
    if not tokens:
        return replace(estimate_offline(missing, None), refused=refused)
    if len(missing.sample) == missing.count:
        basis = f"each of {len(tokens):,} requests counted by the provider"
        total = sum(tokens)
        return InputTokens(Tokens(total, total, total, "exact", len(tokens), basis), Counter(tokens), refused)
    ratio = sum(tokens) / sum(sizes)
    expected = round(ratio * missing.bytes)
    reach = _reach(sizes, tokens, missing.count)
    low, high = (None, None) if reach is None else (max(0, round(expected - reach)), round(expected + reach))
    basis = (
        f"{len(tokens)} requests, drawn by request key, counted by the provider: {ratio:.3f} tokens per byte, "
        f"times the {missing.bytes:,} bytes of all"
    )
    return InputTokens(Tokens(expected, low, high, "sampled", len(tokens), basis), missing.scaled(ratio), refused)


def estimate_offline(missing: Missing, usual: Usual | None) -> InputTokens:
    """Asks nobody: the mean of stored answers where there are enough of them, else bytes."""
    if usual is not None and usual.is_enough:
        expected = round(usual.input_tokens * missing.count)
        basis = f"mean of {usual.answers:,} stored answers {usual.of}, {usual.input_tokens:,.0f} tokens"
        ratio = expected / max(missing.bytes, 1)
        return InputTokens(Tokens(expected, None, None, "usage", usual.answers, basis), missing.scaled(ratio))
    expected = round(missing.bytes / BYTES_PER_TOKEN)
    basis = f"{missing.bytes:,} bytes at {BYTES_PER_TOKEN} bytes a token: a rule of thumb for English text"
    return InputTokens(Tokens(expected, None, None, "bytes", None, basis), missing.scaled(1 / BYTES_PER_TOKEN))


def _reach(sizes: list[int], tokens: list[int], population: int) -> float | None:
    """Half the width of the interval of the total; None for a single request."""
    rows = len(tokens)
    if rows < 2:
        return None
    ratio = sum(tokens) / sum(sizes)
    residuals = sum((token - ratio * size) ** 2 for token, size in zip(tokens, sizes, strict=True))
    variance = (1 - rows / population) * residuals / (rows - 1) / rows
    return float(stdtrit(rows - 1, (1 + CONFIDENCE) / 2)) * population * math.sqrt(variance)
