"""`distill estimate`: what the missing answers would cost, before any is paid for."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_dagster.commands.terminal import shown_progress
from distill_dagster.evaluation.judge_estimate import JudgeEstimate
from distill_dagster.logits.estimate import CaptureEstimate
from distill_dagster.logits.space import told
from distill_dagster.project import Distillation
from distill_dagster.teachers.money.dollars import dollars
from distill_dagster.teachers.money.estimate import How, estimate
from distill_dagster.teachers.money.estimated import Account, Estimate
from distill_dagster.teachers.money.input_tokens import Tokens

FORMAT = 1
TRANSPORTS = {
    "messages": "messages, one request each",
    "batches": "batches, at half price",
    "chat_completions": "chat completions, one request each",
    "worker": "worker, on this machine",
}


def estimate_cost(distillation: Distillation, partitions: Sequence[str] | None, how: How | None) -> Estimate:
    """The estimate, with progress on the terminal while tokens are counted.

    Raises:
        DistillError: as `teachers.estimate.estimate` says.
    """
    with shown_progress(Console(stderr=True, highlight=False)):
        return estimate(distillation, partitions, how)


def print_estimate(
    found: Estimate, capture: CaptureEstimate | None, judge: JudgeEstimate | None, *, as_json: bool
) -> None:
    """Prints a table and a closing sentence, or JSON.

    The JSON has "format": 1, "distillation", "provider", "model", "partitions" (a list), "failed" (reasons by
    partition), "requests" {needed, stored, in_batches, missing}, "transport" {chosen, why}, "basis" (a sentence by
    number), "notes" (a list) and, each null for a local teacher, "input_tokens" and "output_tokens" {expected, low,
    high, method, rows, basis}, "messages" and "batches" {expected_microusd, most_microusd} (batches only for
    anthropic), "budget" {limit_microusd, spent_microusd, left_microusd, expected_fits, most_fits} (null limit: none).
    Tokens and money are those of the missing requests. "capture" is null where no student learns from logits, else
    {captured, missing, tokens, bytes, free_bytes}: completions, and what capturing the missing ones would take. "judge"
    is null without a hosted judge of the evaluations, else {judge, pairs, without_call, needed, stored, missing,
    most_microusd, basis}; its calls are in none of the other numbers.
    """
    console = Console(highlight=False)
    if as_json:
        more = {"capture": asdict(capture) if capture else None, "judge": asdict(judge) if judge else None}
        content = {"format": FORMAT, **asdict(found), **more}
        console.out(json.dumps(content, indent=2, ensure_ascii=False))
        return
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for name, value, basis in _rows(found):
        table.add_row(Text(name, style="bold"), Text(value), Text(basis, style="dim"))
    further = (*(_capture_rows(capture) if capture else ()), *(_judge_rows(judge) if judge else ()))
    for name, value, basis in further:
        table.add_row(Text(name, style="bold"), Text(value), Text(basis, style="dim"))
    console.print(table)
    for note in (*found.notes, *(f"partition {name} left out: {why}" for name, why in found.failed.items())):
        console.print(Text(f"note: {note}", style="yellow"))
    console.print(Text(f"\n{closing_sentence(found)}{_judge_words(judge)}"))


def closing_sentence(found: Estimate) -> str:
    """`about $3.10, at most $9.85; budget $25.00, $0.00 spent`, and whether the budget is enough."""
    missing = found.requests.missing
    if not missing:
        travelling = f", {found.requests.in_batches:,} of them in batches" if found.requests.in_batches else ""
        return f"nothing to ask: all {found.requests.needed:,} answers are there{travelling}"
    if found.cost is None or found.output_tokens is None:
        return f"{missing:,} answers are missing; calls of a local teacher cost no money"
    about = "up to about" if found.output_tokens.method == "max_tokens" else "about"
    sums = f"{about} {dollars(found.cost.expected_microusd)}, at most {dollars(found.cost.most_microusd)}"
    return f"{sums}; {_budget_words(found.budget)}" if found.budget else sums


def _budget_words(budget: Account) -> str:
    spent = f"{dollars(budget.spent_microusd)} spent"
    if budget.limit_microusd is None:
        return f"no budget is declared, {spent}"
    words = f"budget {dollars(budget.limit_microusd)}, {spent}"
    if not budget.expected_fits:
        return f"{words}: not enough for what is expected"
    return words if budget.most_fits else f"{words}: enough for what is expected, not for the most"


def _rows(found: Estimate) -> Iterator[tuple[str, str, str]]:
    """Name, value and basis of each line."""
    requests = found.requests
    yield "teacher", f"{found.provider} {found.model}", ""
    yield "answers needed", f"{requests.needed:,}", found.basis["requests"]
    yield "  stored", f"{requests.stored:,}", ""
    if requests.in_batches:
        yield "  in batches", f"{requests.in_batches:,}", "sent earlier, not ended yet"
    yield "  missing", f"{requests.missing:,}", ""
    yield "transport", TRANSPORTS[found.transport.chosen], found.transport.why
    if not requests.missing or found.input_tokens is None or found.output_tokens is None:
        return
    yield "input tokens", _tokens(found.input_tokens), found.input_tokens.basis
    yield "output tokens", _tokens(found.output_tokens), found.output_tokens.basis
    singly, batched = found.messages, found.batches
    if singly is not None:
        expected = _sums(singly.expected_microusd, batched.expected_microusd if batched else None)
        yield "expected cost", expected, found.basis["expected"]
        most = _sums(singly.most_microusd, batched.most_microusd if batched else None)
        yield "at most", most, found.basis["at_most"]
    if found.budget is not None:
        yield "budget", _left(found.budget), found.basis["budget"]


def _capture_rows(capture: CaptureEstimate) -> Iterator[tuple[str, str, str]]:
    yield "logits captured", f"{capture.captured:,} completions", ""
    if capture.missing:
        tokens = f"{capture.missing:,} completions, about {capture.tokens:,} tokens"
        yield "  missing", tokens, "test rows are not captured"
        yield "  at most", told(capture.bytes), f"before compression; {told(capture.free_bytes)} free"


def _judge_rows(judge: JudgeEstimate) -> Iterator[tuple[str, str, str]]:
    yield "judge", judge.judge, f"{judge.pairs:,} pairs in both orders, {judge.without_call:,} of them without a call"
    yield "  calls", f"{judge.missing:,} missing, {judge.stored:,} stored", judge.basis
    if judge.missing:
        yield "  at most", dollars(judge.most_microusd), "every byte a token and every verdict as long as max_tokens"


def _judge_words(judge: JudgeEstimate | None) -> str:
    if judge is None or not judge.missing:
        return ""
    return f"\nthe judge: at most {dollars(judge.most_microusd)} more, from the same budget"


def _sums(singly: int, batched: int | None) -> str:
    return dollars(singly) if batched is None else f"{dollars(singly)}\n{dollars(batched)} by batches"


def _tokens(tokens: Tokens) -> str:
    shown = f"{tokens.expected:,}"
    if tokens.low is None or tokens.high is None or tokens.low == tokens.high:
        return shown
    return f"{shown} [{tokens.low:,}, {tokens.high:,}]"


def _left(budget: Account) -> str:
    if budget.limit_microusd is None or budget.left_microusd is None:
        return f"none, {dollars(budget.spent_microusd)} spent"
    return f"{dollars(budget.left_microusd)} of {dollars(budget.limit_microusd)} left"
