"""The estimate of the time left, against queues whose true durations are known."""

import pytest

from distill_dagster.teachers.local.time_left import Work, seconds_left

READING_S, WRITING_S = 0.001, 0.05  # per prompt token, per answer token


def work(prompts: list[int], answers: list[int]) -> Work:
    return Work(len(prompts), sum(prompts), READING_S * sum(prompts), WRITING_S * sum(answers))


def test_nothing_done_says_nothing_and_nothing_left_takes_no_time():
    assert seconds_left(Work(0, 0), rows=5, prompt_tokens=50) == 0
    assert seconds_left(work([10], [4]), rows=0, prompt_tokens=0) == 0


def test_it_is_exact_where_answers_are_alike_however_prompts_shrink():
    prompts = [4000, 2000, 500, 100, 20, 10, 10, 10]
    for done in range(1, 8):
        rest = work(prompts[done:], [30] * (8 - done))
        estimate = seconds_left(work(prompts[:done], [30] * done), rows=rest.rows, prompt_tokens=rest.prompt_tokens)
        assert estimate == pytest.approx(rest.seconds)


def test_short_prompts_left_are_not_taken_for_short_answers():
    done, rest = work([1000] * 4, [100] * 4), work([10] * 4, [100] * 4)
    by_prompt_tokens = done.seconds / done.prompt_tokens * rest.prompt_tokens
    assert seconds_left(done, rows=4, prompt_tokens=40) == pytest.approx(rest.seconds)
    assert by_prompt_tokens < rest.seconds / 50


def test_it_errs_on_the_long_side_where_long_prompts_have_long_answers_and_less_and_less():
    prompts = list(range(800, 0, -100))
    answers = [length // 10 for length in prompts]
    errors = []
    for done in range(1, 8):
        rest = work(prompts[done:], answers[done:])
        estimate = seconds_left(work(prompts[:done], answers[:done]), rows=rest.rows, prompt_tokens=rest.prompt_tokens)
        errors.append(estimate - rest.seconds)
    assert all(error > 0 for error in errors)
    assert errors == sorted(errors, reverse=True)


def test_an_engine_that_cannot_tell_reading_from_writing_is_estimated_by_the_row():
    assert seconds_left(Work(10, 5000, 0.0, 20.0), rows=5, prompt_tokens=50) == pytest.approx(10.0)


def test_works_add_up():
    assert Work(1, 10, 0.5, 2.0) + Work(2, 50, 0.25, 4.0) == Work(3, 60, 0.75, 6.0)
