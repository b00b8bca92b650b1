"""Memory is flat in the number of prompts: 100,000 of them take hardly more than 5,000."""

import pytest

from benchmarks.teacher_memory import peak_bytes

SMALL, LARGE, MOST_GROWTH = 5_000, 100_000, 1.3


@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", ["messages", "batches"])
def test_a_hundred_thousand_prompts_take_hardly_more_memory_than_five_thousand(transport: str) -> None:
    assert peak_bytes(LARGE, transport) <= MOST_GROWTH * peak_bytes(SMALL, transport)
