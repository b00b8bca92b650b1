"""What an OpenAI-compatible server's errors mean: final for one request, a reason to wait, or to stop altogether."""

import re
from collections.abc import Mapping

import openai

from distill_dagster.teachers.asking.conversation import Failed
from distill_dagster.teachers.asking.http import retry_after, said
from distill_dagster.teachers.asking.pacing import Pause
from distill_dagster.teachers.openai.requests import KEY_VARIABLE

# The request itself is wrong: asking again cannot mend it.
FINAL_ERRORS = (400, 413, 422)
THROTTLED = (429, 529)
# A gateway gave up waiting, or lost the server behind it; the model may have answered.
PERHAPS_BILLED = (408, 502, 504)
# Told with different statuses, 429 among them.
UNPAID_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
LIMITS = ("requests", "tokens")
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def is_final(error: openai.APIStatusError) -> bool:
    """Whether this request will never be answered while others may."""
    return error.status_code in FINAL_ERRORS and stop_reason(error) is None


def failure(error: openai.APIStatusError) -> Failed:
    """An error that is no final answer."""
    status, headers = error.status_code, error.response.headers
    throttled = status in THROTTLED
    pause = retry_after(headers, throttled=throttled) if throttled or status >= 500 else None
    if pause is None and throttled:
        pause = Pause(_reset_s(headers), throttled=True)
    return Failed(f"HTTP {status}", status in PERHAPS_BILLED, pause, stop_reason(error))


def stop_reason(error: openai.APIStatusError) -> str | None:
    """What to tell the user when asking on would be pointless; None when it would not."""
    status, told = error.status_code, describe(error)
    if status == 402 or error.code in UNPAID_CODES or error.type in UNPAID_CODES:
        return f"the account has no credit left or a spending limit is reached ({told}); raise it and run again"
    if status == 401:
        return f"the server did not accept the key ({told}); set a valid {KEY_VARIABLE} and run again"
    if status == 403:
        return f"the key may not do this ({told}); use a key with access to the model and run again"
    if status in (404, 405):
        return (
            f"the server does not know the model or endpoint ({told}); correct teacher.model (GET /models lists them) "
            "or teacher.base_url, which usually ends in /v1"
        )
    return None


def describe(error: openai.APIStatusError) -> str:
    """An error's status, type and message in one line, for an error row; a key that the server repeats is left out."""
    body = error.body
    told = (body.get("message") or body.get("detail") or body) if isinstance(body, dict) else body
    text = f"{error.type}: {told}" if isinstance(error.type, str) else str(told or "no message")
    return f"{error.status_code} {said(text, KEY_VARIABLE)}"


def exhausted(headers: Mapping[str, str]) -> Pause | None:
    """The pause until a rate limit with nothing remaining is reset; None while every limit has something left."""
    seconds = _reset_s(headers)
    return Pause(seconds, throttled=False) if seconds else None


def duration_s(text: str | None) -> float:
    """Seconds in a duration such as `120ms`, `6m0s` or `7.66s`, or in a bare number; 0 for anything else."""
    whole = (text or "").strip()
    parts = DURATION_PART.findall(whole)
    if parts and "".join(number + unit for number, unit in parts) == whole:
        return sum(float(number) * UNITS_S[unit] for number, unit in parts)
    return float(whole) if re.fullmatch(r"\d+(\.\d+)?", whole) else 0.0


def _reset_s(headers: Mapping[str, str]) -> float:
    """Seconds until all limits with nothing remaining are reset."""
    empty = [limit for limit in LIMITS if headers.get(f"x-ratelimit-remaining-{limit}") == "0"]
    return max((duration_s(headers.get(f"x-ratelimit-reset-{limit}")) for limit in empty), default=0.0)
