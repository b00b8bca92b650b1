"""Counts input tokens with Anthropic's `count_tokens`, which is free, at the pace of the teacher's own requests."""

from collections.abc import Callable, Iterator, Sequence

import anthropic
import polars as pl

from distill_dagster.errors import TeacherError
from distill_dagster.progress import Progress, report
from distill_dagster.teachers.anthropic.errors import describe, failure, is_final
from distill_dagster.teachers.anthropic.messages import connect
from distill_dagster.teachers.anthropic.requests import final_error
from distill_dagster.teachers.anthropic.teacher import AnthropicTeacher
from distill_dagster.teachers.asking.conversation import Answered, Failed, converse
from distill_dagster.teachers.protocol import Response, ResponseStatus, Usage

STAGE = "count_tokens"
# Parts of a request that add no input tokens, and that `count_tokens` does not take.
UNCOUNTED = frozenset({"max_tokens", "stop_sequences"})
# So many failed connections one after another are no accident.
UNREACHABLE_AFTER = 5

Hear = Callable[[str, int], None]
"""Told the request key and the input tokens of each request."""


def count_input_tokens(teacher: AnthropicTeacher, batches: Iterator[pl.DataFrame], total: int, hear: Hear) -> int:
    """Counts the input tokens of every request; nothing is billed, and nothing stored.

    Args:
        teacher: whose requests.
        batches: frames with REQUEST columns, taken one at a time.
        total: how many requests they hold, for progress.
        hear: told each count, from another thread.

    Returns:
        How many requests the API refuses, so that they would cost nothing either.

    Raises:
        TeacherError: the API cannot be asked, or some requests could not be counted this time.
    """
    tally = _Tally(total, hear)
    # Tokens that are only counted are none of the tokens that a minute allows.
    spec = teacher.spec.model_copy(update={"tokens_per_minute": None})
    unanswered = converse(lambda: _CountingClient(teacher), spec, batches, tally)
    if unanswered.stop:
        raise unanswered.stop
    if len(unanswered):
        reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(unanswered.reasons.items()))
        raise TeacherError(
            f"{len(unanswered)} of {total} requests could not be counted ({reasons}); "
            "run again, or estimate with --tokens offline"
        )
    return tally.refused


class _Tally:
    """The desk that counts are handed in at."""

    def __init__(self, total: int, hear: Hear) -> None:
        self._total = total
        self._hear = hear
        self._done = 0
        self.refused = 0

    def deliver(self, answers: Sequence[Response]) -> None:
        """Passes counts on; nothing has to be made durable."""
        for answer in answers:
            if answer.status is ResponseStatus.ERROR:
                self.refused += 1
            else:
                self._hear(answer.request_key, answer.usage.input_tokens)
        self._done += len(answers)
        report(Progress(STAGE, self._done, self._total, "requests"))

    def lost(self, request_key: str) -> bool:
        """Counting is free, so it may always be asked again."""
        return True


class _CountingClient:
    """Asks for one count at a time over an open connection pool."""

    def __init__(self, teacher: AnthropicTeacher) -> None:
        self._client = connect(teacher.spec)
        self._requests = teacher.requests
        self._unreachable = 0

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.close()

    async def send(self, request_key: str, messages: str, sample: int) -> Answered | Failed:
        """One count, as an answer without text."""
        body = {name: value for name, value in self._requests.body(messages).items() if name not in UNCOUNTED}
        try:
            counted = await self._client.messages.count_tokens(**body)
        except anthropic.APIStatusError as error:
            self._unreachable = 0
            return Answered(final_error(request_key, describe(error))) if is_final(error) else failure(error)
        except anthropic.APIConnectionError as error:
            return self._lost(error)
        self._unreachable = 0
        usage = Usage(counted.input_tokens, 0)
        return Answered(Response(request_key, ResponseStatus.ANSWERED, None, None, "[]", usage))

    def _lost(self, error: anthropic.APIConnectionError) -> Failed:
        self._unreachable += 1
        stop = None
        if self._unreachable >= UNREACHABLE_AFTER:
            stop = f"Anthropic's API cannot be reached ({type(error).__name__}); estimate with --tokens offline"
        return Failed(type(error).__name__, stop=stop)
