"""Gets requests answered by whichever transport fits, and collects what earlier runs sent off."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from distill_dagster.errors import DistillError
from distill_dagster.progress import tell
from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.anthropic.transport import choose_transport
from distill_dagster.teachers.asking.asking import Asked, Asking
from distill_dagster.teachers.asking.hosted import HostedTeacher
from distill_dagster.teachers.asking.requests import Requests
from distill_dagster.teachers.asking.survey import check_plan, survey
from distill_dagster.teachers.protocol import Teacher
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.ledger import Ledger
from distill_dagster.teachers.store.responses import ResponseStore

if TYPE_CHECKING:
    from distill_dagster.teachers.anthropic.batching import Batching

LOCAL_CLAIM = 5_000


@dataclass
class Tally:
    """How many calls were made for a purse, those that travel in provider batches included."""

    made: int = 0


@dataclass(frozen=True)
class Purse:
    """Who pays, and how patiently.

    Attributes:
        distillation: whose budget.
        run: which run spends, e.g. a Dagster run id.
        wait: whether to stay until provider batches have ended; else they are left for a later call.
        most_calls: the most requests that may be new to the teacher, as a plan counted them; None where there is none.
        tally: counts the calls that were made.
    """

    distillation: Distillation
    run: str | None = None
    wait: bool = True
    most_calls: int | None = None
    tally: Tally = field(default_factory=Tally)

    def planned(self, most_calls: int | None) -> "Purse":
        """The same with a tally of its own, for calls that a plan counted by themselves."""
        return replace(self, most_calls=most_calls, tally=Tally())

    @property
    def unplanned(self) -> "Purse":
        """The same, for a teacher that no plan counts the calls of."""
        return replace(self, most_calls=None)

    def left_after(self, asked: Asked) -> "Purse":
        """The same, for what is left of the plan."""
        return self if self.most_calls is None else replace(self, most_calls=max(0, self.most_calls - asked.answered))

    @property
    def budget(self) -> Budget:
        """The distillation's account."""
        return Budget.of(self.distillation.name, self.distillation.spec.teacher.budget_usd, self.run)

    @property
    def home(self) -> Path:
        """Where results of batches are put down before they are counted."""
        return self.distillation.project.home


def obtain(store: ResponseStore, teacher: Teacher, requests: Requests, purse: Purse) -> Asked:
    """Returns when every request is answered, or travels in a batch that is not to be waited for.

    Raises:
        DistillError: some could not be answered; everything that was is stored.
        PlanError: more are missing than were planned; none is asked.
    """
    asked = _obtain(store, teacher, requests, purse)
    purse.tally.made += asked.answered + asked.in_batches
    return asked


def _obtain(store: ResponseStore, teacher: Teacher, requests: Requests, purse: Purse) -> Asked:
    if not isinstance(teacher, AnthropicTeacher):
        return _one_by_one(store, teacher, requests, purse)
    if Ledger(store.engine).find(identity=teacher.identity.digest):
        _batching(store, teacher, purse).collect()
    found = survey(store, requests)
    check_plan(found.missing, purse.most_calls)
    if found.missing:
        choice = choose_transport(teacher.spec, found.missing)
        if choice.transport == "batches":
            tell(choice.why)
            return _batching(store, teacher, purse).ask(requests)
        if teacher.spec.transport == "auto":
            tell(choice.why)
    asked = _one_by_one(store, teacher, requests, purse)
    if asked.in_batches and purse.wait:
        tell(f"{asked.in_batches:,} requests are in batches sent earlier; they are not sent again, waiting for them")
        rest = _batching(store, teacher, purse).ask(requests)
        return Asked(
            asked.needed, asked.stored, asked.answered + rest.answered, asked.cost_microusd + rest.cost_microusd
        )
    return asked


def answers_to(teacher: Teacher, prompts: pl.DataFrame, purse: Purse) -> pl.DataFrame:
    """Asks a few conversations at once, out of the store where they were answered before.

    Args:
        prompts: messages, sample, and any other columns.

    Returns:
        The prompts with request_key and the answers' FETCHED columns.

    Raises:
        DistillError: some could not be answered.
    """
    store = ResponseStore(purse.distillation.project.store_url)
    requests = prompts.with_columns(teacher.identity.request_keys(prompts))
    obtain(store, teacher, [requests], purse)
    answers = store.fetch(requests["request_key"].unique())
    return requests.join(answers, on="request_key", how="left", maintain_order="left")


def try_to_obtain(store: ResponseStore, teacher: Teacher, requests: Requests, purse: Purse) -> Asked | DistillError:
    """`obtain`, with its error as a value: what is complete can still be used."""
    try:
        return obtain(store, teacher, requests, purse)
    except DistillError as error:
        return error


def _batching(store: ResponseStore, teacher: AnthropicTeacher, purse: Purse) -> "Batching":
    """Loads the SDK, so it is made only where there is something to send or to collect."""
    from distill_dagster.teachers.anthropic.batching import Batching

    return Batching(store, teacher, purse.budget, wait=purse.wait, home=purse.home)


def _one_by_one(store: ResponseStore, teacher: Teacher, requests: Requests, purse: Purse) -> Asked:
    is_hosted = isinstance(teacher, HostedTeacher)
    claim_size = teacher.spec.concurrency if isinstance(teacher, HostedTeacher) else LOCAL_CLAIM
    return Asking(
        store, teacher, purse.budget, claim_size=claim_size, announce=is_hosted, most_calls=purse.most_calls
    ).ask(requests)
