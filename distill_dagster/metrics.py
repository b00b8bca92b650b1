"""Text metrics by name, each a pure function of a prediction and a reference on a 0-1 scale, and the health of texts.

Words are found in any script: runs of letters, marks and digits; scripts written without spaces (Han, kana,
Thai, Lao, Khmer, Burmese) count each character as a word. On ASCII text this is the tokenisation of rouge-score.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

REPETITION_NGRAM = 4

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+")
_SYMBOL = regex.compile(r"\S")
# A minus sign before a number and a percent sign carry meaning; other punctuation does not decide a match.
_PUNCTUATION = regex.compile(r"(?:(?!(?<!\w)-(?=\d)|%)\p{P}|\s)+")


@dataclass(frozen=True)
class Metric:
    """A text metric: its name in the YAML, its name for readers, what it measures, and how."""

    name: str
    label: str
    description: str
    score: Callable[[str, str], float]


def words(text: str) -> list[str]:
    """The words of a text, NFKC-normalised and case-folded; its symbols where it has no words at all ("👍", "=>")."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    found: list[str] = _WORD.findall(folded) or _SYMBOL.findall(folded)
    return found


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure over the longest common subsequence of words (Lin 2004; rouge-score's `rougeL`, no stemming)."""
    return float(_rouge().score(target=reference, prediction=prediction)["rougeL"].fmeasure)


def chrf(prediction: str, reference: str) -> float:
    """Character n-gram F2-score up to 6-grams (Popović 2015; sacrebleu's sentence chrF over 100)."""
    return float(_chrf().sentence_score(prediction, [reference]).score) / 100


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both texts are equal after NFKC, case-folding and collapsing punctuation and whitespace, else 0.0."""
    return float(_canonical(prediction) == _canonical(reference))


def repetition_rate(text: str) -> float | None:
    """Share of word 4-grams that occurred earlier in the text; None where it has fewer than four words."""
    tokens = words(text)
    ngrams = list(zip(*(tokens[start:] for start in range(REPETITION_NGRAM)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else None


def length_ratio(prediction: str, teacher: str) -> float | None:
    """Characters of the prediction per character of the teacher's answer; None where that answer is empty."""
    return len(prediction) / len(teacher) if teacher else None


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("rouge_l", "ROUGE-L", "words in common, in the same order", rouge_l),
            Metric("chrf", "chrF", "runs of up to six characters in common", chrf),
            Metric("exact_match", "Exact match", "the same text, punctuation and case aside", exact_match),
        )
    }
)


def _canonical(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return str(_PUNCTUATION.sub(" ", folded)).strip() or folded


class _AnyScriptTokenizer:
    """What rouge-score asks of a tokenizer; its own drops everything that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@lru_cache(maxsize=1)
def _rouge() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # a second of imports, only when used

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_AnyScriptTokenizer())


@lru_cache(maxsize=1)
def _chrf() -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
