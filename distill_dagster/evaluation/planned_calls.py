"""What an evaluation asks beside its predictions, how many calls a plan allows for each, and how many were made."""

from collections.abc import Mapping
from enum import StrEnum

from distill_dagster.teachers.asking.obtaining import Purse


class Asking(StrEnum):
    """The judge's verdicts, or answers of the teacher that no dataset has."""

    JUDGE = "judge"
    SECOND_ANSWERS = "second_answers"
    GOLDEN_ANSWERS = "golden_answers"


class Purses:
    """The purses of one evaluation, one for each purpose."""

    def __init__(self, purse: Purse, planned: Mapping[Asking, int] | None) -> None:
        """Args:
        purse: whose money it is.
        planned: the most calls that a plan allows, none where it names no number; None where there is no plan.
        """
        allowed = {asking: None if planned is None else planned.get(asking, 0) for asking in Asking}
        self._purses = {asking: purse.planned(most) for asking, most in allowed.items()}

    def of(self, asking: Asking) -> Purse:
        """What pays for one purpose."""
        return self._purses[asking]

    @property
    def made(self) -> dict[Asking, int]:
        """Calls that were made, by purpose."""
        return {asking: purse.tally.made for asking, purse in self._purses.items()}
