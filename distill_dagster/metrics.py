"""Metrics by name, each a pure function of a prediction, a reference and its row from 0 to 1, and the health of texts.

Words are found in any script: runs of letters, marks and digits; scripts written without spaces (Han, kana,
Thai, Lao, Khmer, Burmese) count each character as a word. On ASCII text this is the tokenisation of rouge-score.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import regex

from distill_dagster.spec.metrics import MACRO_F1

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

Row: TypeAlias = Mapping[str, str | None]
"""What else a metric may look at: prompt_id, group_id, partition, text (the prompt), reference, completion."""
Score: TypeAlias = Callable[[str, str | None, Row], float]
NO_ROW: Row = MappingProxyType({})

REPETITION_NGRAM = 4

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_SPACED = rf"(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])"
_SPACED_CHARACTER = regex.compile(_SPACED)
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|{_SPACED}+")
_SYMBOL = regex.compile(r"\S")
_WRAPPINGS = ('""', "''", "**", "“”", "‘’", "«»", "»«", "„“", "「」", "『』")
_FULL_STOPS = (".", "。")
# A minus sign before a number and a percent sign carry meaning; other punctuation does not decide a match.
_PUNCTUATION = regex.compile(r"(?:(?!(?<!\w)-(?=\d)|%)\p{P}|\s)+")


@dataclass(frozen=True)
class MetricFacts:
    """What a metric is.

    Attributes:
        name: in the YAML, in columns and in the gate.
        label: for readers.
        description: what it measures.
        needs_reference: whether it compares with a reference; one that does not judges the prediction alone.
    """

    name: str
    label: str
    description: str
    needs_reference: bool


@dataclass(frozen=True)
class Metric(MetricFacts):
    """A metric with a score per row.

    Attributes:
        score: (prediction, reference, row) → 0…1; the reference may be None where none is needed.
    """

    score: Score


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
    return min(float(_chrf().sentence_score(prediction, [reference]).score) / 100, 1.0)


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU (Papineni 2002; sacrebleu's, tokeniser 13a, exponential smoothing, effective order) over 100.

    13a splits at spaces and punctuation only: of a script written without spaces it makes one word.
    """
    return min(float(_bleu().sentence_score(prediction, [reference]).score) / 100, 1.0)


def token_f1(prediction: str, reference: str) -> float:
    """F-measure over words in common, whatever their order (Rajpurkar 2016); 1.0 where both have none.

    SQuAD also drops English articles; here every language is treated alike.
    """
    said, wanted = Counter(words(prediction)), Counter(words(reference))
    total = said.total() + wanted.total()
    return 2 * (said & wanted).total() / total if total else 1.0


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both texts are equal after NFKC, case-folding and collapsing punctuation and whitespace, else 0.0."""
    return float(_canonical(prediction) == _canonical(reference))


def contains(prediction: str, reference: str) -> float:
    """1.0 where the reference, normalised as for `exact_match`, occurs in the prediction word for word, else 0.0.

    An empty reference occurs in an empty prediction only.
    """
    said, wanted = _canonical(prediction), _canonical(reference)
    if not wanted:
        return float(not said)
    start = said.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if not _joined(wanted[0], said[start - 1 : start], "-") and not _joined(wanted[-1], said[end : end + 1], "%"):
            return 1.0
        start = said.find(wanted, start + 1)
    return 0.0


def label_accuracy(prediction: str, reference: str) -> float:
    """1.0 where both are the same label (`label_form`), else 0.0."""
    return float(label_form(prediction) == label_form(reference))


def label_form(text: str) -> str:
    """A label's text without what does not matter: case, wrapping quotes and asterisks, one full stop."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    bare = _unwrapped(folded)
    if bare.endswith(_FULL_STOPS) and len(bare) > 1:
        bare = _unwrapped(bare[:-1])
    return bare


def json_valid(prediction: str) -> float:
    """1.0 where the text as it stands is JSON, else 0.0; NaN, Infinity and a fence around it are not JSON."""
    try:
        json.loads(prediction, parse_constant=_no_constant, parse_int=str)  # as text: Python limits an int's digits
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def repetition_rate(text: str) -> float | None:
    """Share of word 4-grams that occurred earlier in the text; None where it has fewer than four words."""
    tokens = words(text)
    ngrams = list(zip(*(tokens[start:] for start in range(REPETITION_NGRAM)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else None


def length_ratio(prediction: str, teacher: str) -> float | None:
    """Characters of the prediction per character of the teacher's answer; None where that answer is empty."""
    return len(prediction) / len(teacher) if teacher else None


def _against(name: str, label: str, description: str, score: Callable[[str, str], float]) -> Metric:
    def of_row(prediction: str, reference: str | None, row: Row) -> float:
        if reference is None:
            raise ValueError(f"{name} compares with a reference, and there is none")
        return score(prediction, reference)

    return Metric(name, label, description, needs_reference=True, score=of_row)


def _alone(name: str, label: str, description: str, score: Callable[[str], float]) -> Metric:
    return Metric(name, label, description, needs_reference=False, score=lambda prediction, *_: score(prediction))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _against("rouge_l", "ROUGE-L", "words in common, in the same order", rouge_l),
            _against("chrf", "chrF", "runs of up to six characters in common", chrf),
            _against("exact_match", "Exact match", "the same text, punctuation and case aside", exact_match),
            _against("token_f1", "Token F1", "words in common, in any order", token_f1),
            _against("bleu", "BLEU", "runs of up to four words in common", bleu),
            _against("contains", "Contains", "the other text occurs in it, punctuation and case aside", contains),
            _against("label_accuracy", "Label accuracy", "the same label", label_accuracy),
            _alone("json_valid", "Valid JSON", "the answer is JSON as it stands", json_valid),
        )
    }
)
"""All that have a score per row and need no setting."""
MACRO_F1_FACTS = MetricFacts(
    MACRO_F1, "Macro F1", "F1 of each label, averaged over labels; interval by jackknife over groups", True
)


def metric_label(name: str) -> str:
    """What a declared metric is called for readers; one with a parameter by its name."""
    if name == MACRO_F1:
        return MACRO_F1_FACTS.label
    return METRICS[name].label if name in METRICS else name


def _canonical(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    return str(_PUNCTUATION.sub(" ", folded)).strip() or folded


def _joined(edge: str, beside: str, sign: str) -> bool:
    """Whether an edge of a text is the middle of a word, or a number without its sign."""
    is_word = _SPACED_CHARACTER.match(edge) is not None
    return is_word and (beside == sign or _SPACED_CHARACTER.match(beside) is not None)


def _unwrapped(text: str) -> str:
    text = text.strip()
    while len(text) > 2 and text[0] + text[-1] in _WRAPPINGS:
        text = text[1:-1].strip()
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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


@lru_cache(maxsize=1)
def _bleu() -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)
