"""What HTTP failures have in common, whichever provider's client meets them."""

import os
from collections.abc import Iterator, Mapping

import aiohttp

from distill_dagster.teachers.asking.conversation import Failed
from distill_dagster.teachers.asking.pacing import Pause

# Shorter ones are placeholders, and words of the message may hold them.
SECRET_FROM_CHARS = 8
MOST_SAID_CHARS = 500


def said(text: str, *key_variables: str) -> str:
    """A server's message in one line of bounded length; a key that it repeats is left out.

    Args:
        key_variables: environment variables that may hold the key.
    """
    for name in key_variables:
        key = os.environ.get(name, "").strip()
        if len(key) >= SECRET_FROM_CHARS:
            text = text.replace(key, "[key]")
    return " ".join(text.split())[:MOST_SAID_CHARS]


def retry_after(headers: Mapping[str, str], *, throttled: bool) -> Pause | None:
    """The pause that a `retry-after-ms` or `retry-after` header (seconds) asks for."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return Pause(max(0.0, float(headers[name]) * unit_s), throttled)
        except (KeyError, ValueError):
            continue
    return None


def unconnected(error: Exception, where: str) -> Failed:
    """A connection that failed, broke or timed out. Only where none was ever made can nothing have been billed.

    Args:
        error: the client's error; what happened on the wire is among its causes.
        where: the server's address, for people.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for cause in causes):
        return Failed(f"no connection to {where}")
    timed_out = any(isinstance(cause, TimeoutError) for cause in causes)
    return Failed("no answer in time" if timed_out else "connection lost", perhaps_billed=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
