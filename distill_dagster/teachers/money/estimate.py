"""What the declared prompts would cost at the declared teacher, before any is asked; nothing is billed or written."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from distill_dagster.errors import DistillError, TeacherError
from distill_dagster.project import Distillation
from distill_dagster.prompts.build import PromptBuild, build_prompts
from distill_dagster.prompts.store import read_prompts
from distill_dagster.spec.answers import BestOf
from distill_dagster.teachers.anthropic.requests import CACHED_FROM_BYTES, KEY_VARIABLES
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.anthropic.transport import choose_transport
from distill_dagster.teachers.asking.requests import CHUNK_ROWS, with_samples
from distill_dagster.teachers.asking.survey import Survey, open_requests, survey
from distill_dagster.teachers.money.estimated import Account, Cost, Estimate, Requests, Transport
from distill_dagster.teachers.money.input_tokens import (
    InputTokens,
    Missing,
    Tokens,
    count_exactly,
    count_sample,
    estimate_offline,
)
from distill_dagster.teachers.money.prices import PROJECT_TABLE, table_date
from distill_dagster.teachers.money.usual import USUAL_FROM, Usual, usual_tokens
from distill_dagster.teachers.openai.teacher import OpenAiTeacher
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, Teacher, TeacherIdentity
from distill_dagster.teachers.providers import make_teacher
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.database import reading
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.worker_process import no_launch

How = Literal["offline", "sampled", "exact"]
HostedTeacher = AnthropicTeacher | OpenAiTeacher


def estimate(distillation: Distillation, partitions: Sequence[str] | None = None, how: How | None = None) -> Estimate:
    """Estimates what the answers that are missing would cost.

    Prompts are rendered in memory from the source as it is now, so that none needs to be materialised.

    Args:
        distillation: whose prompts and teacher.
        partitions: only these; None for all.
        how: where input tokens come from; None for `sampled` where the provider counts for free and a key is set,
            else `offline`. `exact` and `sampled` send the prompts to the provider's free counter.

    Raises:
        DistillError: no such partition, or the prompts, the teacher or its price cannot be used as declared.
        TeacherError: `how` needs a key, or another provider.
    """
    teacher = make_teacher(distillation, no_launch)
    counted_how = _checked(teacher, how)
    return _estimate(distillation, teacher, _prompts(build_prompts(distillation), partitions), counted_how)


def estimate_stored(distillation: Distillation, partitions: Sequence[str]) -> Estimate:
    """Estimates offline what the missing answers of prompts on disk would cost; the source is not read.

    Raises:
        DistillError: the teacher or its price cannot be used as declared, or prompts are gone.
    """
    teacher = make_teacher(distillation, no_launch)
    frames = {name: read_prompts(distillation, name).select("messages") for name in partitions}
    return _estimate(distillation, teacher, _Prompts(frames, {}), "offline")


def _estimate(distillation: Distillation, teacher: Teacher, prompts: "_Prompts", counted_how: How) -> Estimate:
    requests = _DeclaredRequests(prompts, distillation.spec.teacher.samples, teacher.identity)
    missing = Missing(teacher)
    with store_to_read(distillation.project.store_url) as store:
        found = survey(store, requests, missing.add)
        so_far = _declared(distillation, teacher, prompts, found)
        if not isinstance(teacher, AnthropicTeacher | OpenAiTeacher):
            return so_far
        usual = usual_tokens(store, teacher.identity, requests, found.stored)
        if not missing.count:
            read = InputTokens(_nothing(), {})
        elif isinstance(teacher, AnthropicTeacher) and counted_how == "exact":
            read = count_exactly(teacher, missing, lambda: open_requests(store, requests))
        elif isinstance(teacher, AnthropicTeacher) and counted_how == "sampled":
            read = count_sample(teacher, missing)
        else:
            read = estimate_offline(missing, usual)
        spent = _spent(distillation, store)
    written = output_tokens(teacher.spec.max_tokens, missing.count, usual)
    return _with_money(so_far, distillation, teacher, missing, read, written, spent)


@dataclass(frozen=True)
class _Prompts:
    """The wanted partitions' prompts."""

    frames: Mapping[str, pl.DataFrame]
    failed: Mapping[str, str]

    @property
    def rows(self) -> int:
        return sum(len(frame) for frame in self.frames.values())


class _DeclaredRequests:
    """All samples of the prompts as requests, a chunk at a time."""

    def __init__(self, prompts: _Prompts, samples: int, identity: TeacherIdentity) -> None:
        self._prompts = prompts
        self._samples = range(samples)
        self._identity = identity

    def __iter__(self) -> Iterator[pl.DataFrame]:
        rows = max(1, CHUNK_ROWS // len(self._samples))
        for frame in self._prompts.frames.values():
            for chunk in frame.select("messages").iter_slices(rows):
                yield with_samples(chunk, self._samples, self._identity).select(REQUEST_COLUMNS)


def _checked(teacher: Teacher, how: How | None) -> How:
    has_key = any(os.environ.get(name) for name in KEY_VARIABLES)
    if not isinstance(teacher, AnthropicTeacher):
        if how in ("exact", "sampled") and isinstance(teacher, OpenAiTeacher):
            raise TeacherError(f"--tokens {how}: only Anthropic's API counts tokens for free; use --tokens offline")
        return "offline"
    if how in ("exact", "sampled") and not has_key:
        raise TeacherError(
            f"--tokens {how} counts with Anthropic's API (free, but with a key): set {KEY_VARIABLES[0]}, "
            "or use --tokens offline"
        )
    return how or ("sampled" if has_key else "offline")


def _prompts(build: PromptBuild, partitions: Sequence[str] | None) -> _Prompts:
    unknown = sorted(set(partitions or ()).difference(build.names))
    if unknown:
        raise DistillError(f"no partition {', '.join(unknown)} in the source (known: {', '.join(build.names)})")
    wanted = [name for name in build.names if partitions is None or name in partitions]
    frames = {name: build.partitions[name].frame for name in wanted if name in build.partitions}
    return _Prompts(frames, {name: build.failed[name] for name in wanted if name in build.failed})


@contextmanager
def store_to_read(url: str) -> Iterator[ResponseStore]:
    """The response store to read; an empty one of a moment where there is none yet, since opening would make it."""
    store = ResponseStore.to_read(url)
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        yield ResponseStore(f"sqlite:///{folder}/empty.sqlite")


def _declared(distillation: Distillation, teacher: Teacher, prompts: _Prompts, found: Survey) -> Estimate:
    """What is known before any token is."""
    spec = distillation.spec.teacher
    basis = f"distinct requests of {prompts.rows:,} prompts"
    if spec.samples > 1:
        basis += f", {spec.samples} samples of each; an upper bound: further samples of refused prompts are not asked"
    return Estimate(
        distillation=distillation.name,
        provider=spec.provider,
        model=spec.model,
        partitions=tuple(prompts.frames),
        failed=prompts.failed,
        requests=Requests(found.needed, found.stored, found.in_batches, found.missing),
        transport=transport_of(teacher, found.missing),
        basis={"requests": basis},
    )


def transport_of(teacher: Teacher, missing: int) -> Transport:
    """How so many requests would travel."""
    if isinstance(teacher, AnthropicTeacher):
        choice = choose_transport(teacher.spec, missing)
        return Transport(choice.transport, choice.why)
    if isinstance(teacher, OpenAiTeacher):
        return Transport("chat_completions", "provider openai: one request each")
    return Transport("worker", "a local teacher: its answers cost time on this machine, and no money")


def output_tokens(most: int, missing: int, usual: Usual) -> Tokens:
    """Output tokens of the missing answers, by those stored.

    Args:
        most: the longest answer allowed.
    """
    if not missing:
        return _nothing()
    if usual.is_enough:
        basis = f"mean of {usual.answers:,} stored answers {usual.of}, {usual.output_tokens:,.0f} tokens"
        return Tokens(round(usual.output_tokens * missing), None, None, "usage", usual.answers, basis)
    basis = (
        f"an upper bound, max_tokens ({most:,}) each: {usual.answers} answers of this teacher are stored, "
        f"and a mean needs {USUAL_FROM}"
    )
    return Tokens(most * missing, None, None, "max_tokens", usual.answers, basis)


def _nothing() -> Tokens:
    return Tokens(0, 0, 0, "none", None, "nothing is missing")


def _with_money(
    so_far: Estimate,
    distillation: Distillation,
    teacher: HostedTeacher,
    missing: Missing,
    read: InputTokens,
    written: Tokens,
    spent_microusd: int,
) -> Estimate:
    messages, batches = costs_of(teacher, missing, read, written)
    priced = batches if so_far.transport.chosen == "batches" and batches else messages
    basis = {
        **so_far.basis,
        "expected": f"input and output tokens at {_prices(teacher, distillation.project.root)}",
        "at_most": "every byte a token and every answer as long as max_tokens: what the budget reserves",
        "budget": "spent and reserved over all runs of this distillation",
    }
    return replace(
        so_far,
        input_tokens=read.tokens,
        output_tokens=written,
        messages=messages,
        batches=batches,
        budget=_account(distillation, priced, spent_microusd),
        basis=basis,
        notes=tuple(_notes(distillation, missing, read, so_far.requests)),
    )


def costs_of(teacher: HostedTeacher, missing: Missing, read: InputTokens, written: Tokens) -> tuple[Cost, Cost | None]:
    """What the missing answers cost, singly and, where the provider has them, in batches."""
    each = round(written.expected / missing.count) if missing.count else 0
    messages = Cost(_expected(teacher, read, each, batched=False, most=missing.most_microusd), missing.most_microusd)
    if not isinstance(teacher, AnthropicTeacher):
        return messages, None
    most = missing.most_batched_microusd or 0
    return messages, Cost(_expected(teacher, read, each, batched=True, most=most), most)


def _expected(teacher: HostedTeacher, read: InputTokens, each: int, *, batched: bool, most: int) -> int:
    """Micro-dollars, request by request: a longer prompt can fall into another band of the price."""
    price = teacher.price
    total = sum(count * price.microusd(tokens, each, batched=batched) for tokens, count in read.lengths.items())
    return min(total, most)


def _prices(teacher: HostedTeacher, project_root: Path) -> str:
    if teacher.spec.prices is not None:
        return "the declared teacher.prices"
    own = f"{PROJECT_TABLE} where it has the model, else " if (project_root / PROJECT_TABLE).is_file() else ""
    return f"the prices of {own}{table_date()}"


def _account(distillation: Distillation, cost: Cost, spent: int) -> Account:
    limit = declared_budget(distillation).limit_microusd
    left = None if limit is None else max(0, limit - spent)
    return Account(
        limit_microusd=limit,
        spent_microusd=spent,
        left_microusd=left,
        expected_fits=left is None or cost.expected_microusd <= left,
        most_fits=left is None or cost.most_microusd <= left,
    )


def _spent(distillation: Distillation, store: ResponseStore) -> int:
    with reading(store.engine) as connection:
        return declared_budget(distillation).spent_in(connection)


def declared_budget(distillation: Distillation) -> Budget:
    """The distillation's account, to look at."""
    return Budget.of(distillation.name, distillation.spec.teacher.budget_usd)


def _notes(distillation: Distillation, missing: Missing, read: InputTokens, requests: Requests) -> Iterator[str]:
    spec = distillation.spec.teacher
    if read.refused:
        yield f"the provider refuses {read.refused:,} of the requests it was asked to count; those cost nothing"
    if requests.in_batches:
        yield "requests in batches are not in the cost: the budget has reserved it"
    if spec.provider == "anthropic" and spec.prompt_cache and any(size >= CACHED_FROM_BYTES for size in missing.sizes):
        yield "the expected cost has no prompt cache in it; where a long shared beginning is cached, less is paid"
    if isinstance(spec.select, BestOf) and spec.select.best.judge is not None:
        yield "the judge's verdicts are not in the cost, though they are paid from the same budget"
    if distillation.spec.evaluation.gate is not None:
        yield "the answers to golden rows (evaluation.gate) are not in the cost, though they are paid once"
    if (again := distillation.spec.evaluation.teacher_resample) is not False:
        prompts = "every test prompt" if again is True else f"{again:,} test prompts"
        yield f"the second answers to {prompts} (evaluation.teacher_resample) are not in the cost, though they are paid"
