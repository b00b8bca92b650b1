"""Turns the package's errors into Dagster failures: one clear message instead of a traceback, and no retries."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from distill_dagster.errors import DistillError


@contextmanager
def as_failure() -> Iterator[None]:
    """Raises `dagster.Failure` for an error that is the user's to mend."""
    try:
        yield
    except DistillError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
