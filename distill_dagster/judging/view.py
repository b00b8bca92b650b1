"""The judge's tables as a reader sees them: findings in sentences, and Markdown for Dagster; no text of any answer."""

from collections.abc import Sequence

from distill_dagster.evaluation.formatting import UNDEFINED, count, interval, quantity, rows_in_groups
from distill_dagster.evaluation.statistics import Estimate
from distill_dagster.judging.verdicts import JudgeTable

_VERDICTS = {"better": "the student is preferred", "worse": "the student falls behind", "undecided": "undecided"}


def judge_findings(tables: Sequence[JudgeTable]) -> list[str]:
    """One sentence an opponent, fit for a report's headlines."""
    return [_finding(table) for table in tables]


def judge_markdown(tables: Sequence[JudgeTable]) -> str:
    """The disclosure and a table with a row an opponent; empty where nothing was judged."""
    if not tables:
        return ""
    header = ["student against", "win rate", "wins / ties / losses", "flips of decisive pairs", "first answer chosen"]
    header += ["win rate at like length", "length", "unusable", "n (groups)"]
    lines = [f"- {_plain(sentence)}" for sentence in dict.fromkeys(table.disclosure for table in tables)]
    lines += ["", _line(header), _line([":--", *["--:"] * (len(header) - 1)])]
    lines += [_row(table) for table in tables]
    return "\n".join(lines) + "\n"


def _finding(table: JudgeTable) -> str:
    rate = table.win_rate
    if rate.value is None:
        return (
            f"Judged against {table.opponent_label}: none of the pairs (n = {count(table.pairs)}) has a usable verdict."
        )
    span = f" {interval(rate, 'share')}" if rate.interval else ""
    flipped = ""
    if table.flip_rate.value is not None:
        flips = quantity(table.flip_rate.value, "share")
        flipped = f"; {flips} of {count(table.flip_rate.n)} decisive pairs flip with the order"
    return (
        f"Judged by {_plain(table.judge)} against {table.opponent_label}, the student wins "
        f"{quantity(rate.value, 'share')}{span}, ties counted half ({rows_in_groups(rate)}): "
        f"{_VERDICTS[table.verdict]}{flipped}."
    )


def _row(table: JudgeTable) -> str:
    decisive = count(table.flip_rate.n)
    return _line(
        [
            table.opponent_label,
            _share(table.win_rate),
            f"{count(table.wins)} / {count(table.ties)} / {count(table.losses)}",
            f"{_share(table.flip_rate)} of {decisive}" if table.flip_rate.n else UNDEFINED,
            _share(table.first_rate),
            f"{_share(table.like_length_win_rate)} (n = {count(table.like_length_win_rate.n)})",
            quantity(table.length_ratio.value, "ratio"),
            count(table.unusable),
            f"{count(table.win_rate.n)} ({count(table.win_rate.n_clusters)})",
        ]
    )


def _share(estimate: Estimate) -> str:
    shown = quantity(estimate.value, "share")
    return f"{shown} {interval(estimate, 'share')}" if estimate.interval else shown


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A declared name inside Markdown: on one line, and no cell or link of its own."""
    return "".join("\\" + character if character in "|[]<>`*_" else character for character in " ".join(text.split()))
