"""What Anthropic's errors mean: final for one request, a reason to wait, or a reason to stop altogether."""

from collections.abc import Sequence
from datetime import UTC, datetime

import anthropic

from distill_dagster.teachers.anthropic.requests import KEY_VARIABLES
from distill_dagster.teachers.asking.conversation import Failed
from distill_dagster.teachers.asking.http import retry_after, said
from distill_dagster.teachers.asking.pacing import Pause

# The request itself is wrong: asking again cannot mend it.
FINAL_ERRORS = (400, 413)
THROTTLED = (429, 529)
# A gateway gave up waiting; the model may have answered.
PERHAPS_BILLED = (408, 504)
MONEY_CODES = ("spend_limit", "billing")
# A limit that the user set in the console is a plain 400; taking it for a wrong request would make it final.
MONEY_WORDS = ("spend limit", "usage limit", "credit balance")
REMAINING, RESET = b"-remaining", b"-reset"


def is_final(error: anthropic.APIStatusError) -> bool:
    """Whether this request will never be answered while others may."""
    return error.status_code in FINAL_ERRORS and stop_reason(error) is None


def failure(error: anthropic.APIStatusError) -> Failed:
    """An error that is no final answer."""
    status = error.status_code
    pause = retry_after(error.response.headers, throttled=status in THROTTLED) if status in (*THROTTLED, 503) else None
    if pause is None and status in THROTTLED:
        pause = Pause(0.0, throttled=True)
    return Failed(f"HTTP {status}", status in PERHAPS_BILLED, pause, stop_reason(error))


def stop_reason(error: anthropic.APIStatusError) -> str | None:
    """What to tell the user when asking on would be pointless; None when it would not."""
    told = describe(error)
    if error.status_code == 401:
        return f"the API did not accept the key ({told}); set a valid ANTHROPIC_API_KEY and run again"
    if _is_about_money(error):
        return f"a spending limit is reached ({told}); raise it with the provider and run again"
    if error.status_code == 403:
        return f"the key may not do this ({told}); use a key with access to the model and run again"
    if error.status_code == 404:
        return f"the API does not know the model or endpoint ({told}); correct teacher.model or teacher.base_url"
    return None


def _is_about_money(error: anthropic.APIStatusError) -> bool:
    code, message = error.error_code or "", (error.api_message or "").lower()
    if error.status_code == 402 or any(mark in code for mark in MONEY_CODES):
        return True
    return error.status_code == 400 and any(words in message for words in MONEY_WORDS)


def describe(error: anthropic.APIStatusError) -> str:
    """An error's status, type and message, for an error row."""
    return f"{error.status_code} {said(f'{error.type}: {error.api_message}', *KEY_VARIABLES)}"


def exhausted(headers: Sequence[tuple[bytes, bytes]]) -> Pause | None:
    """The pause until a rate limit with nothing remaining is reset; None while every limit has something left.

    Args:
        headers: name and value of each, as they came; one pass over them costs less than looking each limit up.
    """
    spent = [name.lower() for name, value in headers if value == b"0" and name.lower().endswith(REMAINING)]
    if not spent:
        return None
    resets = {name.removesuffix(REMAINING) + RESET for name in spent}
    seconds = max((_seconds_until(value.decode()) for name, value in headers if name.lower() in resets), default=0.0)
    return Pause(seconds, throttled=False) if seconds > 0 else None


def _seconds_until(moment: str) -> float:
    try:
        return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
