"""What a terminal shows of how long it will take."""

import io

import pytest
from rich.console import Console

from distill_dagster.commands.terminal import duration, shown_progress
from distill_dagster.progress import Progress, report


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min"),
        (3590, "1 h"),
        (7500, "2 h 5 min"),
        (51_000, "14 h"),
        (260_000, "3 d"),
    ],
)
def test_durations_are_said_as_exactly_as_they_are_known(seconds: float, said: str):
    assert duration(seconds) == said


def test_a_line_says_the_time_left_until_there_is_none(capsys: pytest.CaptureFixture[str]):
    with shown_progress(Console(file=io.StringIO())):
        report(Progress("teacher", 2, 6, "answers", {"tokens_per_second": 41.26, "seconds_left": 185.2}))
        report(Progress("teacher", 6, 6, "answers", {"tokens_per_second": 40.0, "seconds_left": 0.0}))
    assert capsys.readouterr().err.splitlines() == [
        "  teacher answers: 2/6 answers tok/s 41.26  left 3 min",
        "  teacher answers: 6/6 answers tok/s 40",
    ]


def test_a_bar_shows_the_stages_own_estimate():
    screen = io.StringIO()
    with shown_progress(Console(file=screen, force_terminal=True, width=100)):
        report(Progress("teacher", 2, 6, "answers", {"tokens_per_second": 41.26, "seconds_left": 7500.0}))
    assert "2 h 5 min" in screen.getvalue()
    assert "seconds left" not in screen.getvalue()


def test_a_stage_without_an_estimate_has_riches(capsys: pytest.CaptureFixture[str]):
    screen = io.StringIO()
    with shown_progress(Console(file=screen, force_terminal=True, width=100)):
        report(Progress("train", 2, 6, "steps", {"loss": 1.5}))
    assert "-:--:--" in screen.getvalue()
