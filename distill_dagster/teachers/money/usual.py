"""How long stored answers and their prompts usually are: what the next ones are expected to be."""

from dataclasses import dataclass

from sqlalchemy import func, select

from distill_dagster.teachers.asking.requests import Requests
from distill_dagster.teachers.protocol import ResponseStatus, TeacherIdentity
from distill_dagster.teachers.store.database import reading
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.teachers.store.schema import responses

# Fewer stored answers say too little about the next ones.
USUAL_FROM = 20
# A mean of so many answers does not move any more.
ENOUGH_ANSWERS = 10_000


@dataclass(frozen=True)
class Usual:
    """Mean tokens of stored answers.

    Attributes:
        answers: how many.
        of: which ones, in words.
    """

    answers: int
    input_tokens: float
    output_tokens: float
    of: str

    @property
    def is_enough(self) -> bool:
        """Whether there are enough to go by."""
        return self.answers >= USUAL_FROM


def usual_tokens(store: ResponseStore, identity: TeacherIdentity, requests: Requests, stored: int) -> Usual:
    """The means of stored answers to these very requests where there are enough, else of all of this teacher's.

    Args:
        stored: how many of the requests are answered.
    """
    if stored >= USUAL_FROM:
        own = _usual_of(store, requests)
        if own.is_enough:
            return own
    answers, read, written = store.usual_usage(identity)
    return Usual(answers, read, written, "of this teacher, whatever their prompts")


def _usual_of(store: ResponseStore, requests: Requests) -> Usual:
    """The means of the first ENOUGH_ANSWERS stored answers."""
    answers = read = written = 0
    sums = select(func.count(), func.sum(responses.c.input_tokens), func.sum(responses.c.output_tokens))
    for chunk in requests:
        own = responses.c.request_key.in_(chunk["request_key"].to_list())
        with reading(store.engine) as connection:
            row = connection.execute(sums.where(own, responses.c.status != ResponseStatus.ERROR.value)).one()
        answers, read, written = answers + int(row[0]), read + int(row[1] or 0), written + int(row[2] or 0)
        if answers >= ENOUGH_ANSWERS:
            break
    return Usual(answers, read / max(answers, 1), written / max(answers, 1), "to these prompts")
