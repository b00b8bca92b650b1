"""A hosted teacher over real HTTP: every answer stored once, and what cannot be answered said clearly."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from distill_dagster.project import Distillation
from distill_dagster.teachers.outputs import read_outputs
from distill_dagster.teachers.store.responses import ResponseStore
from tests.fakes.anthropic_server import KEY, AnthropicServer, Reply, user_spend_limit
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]


def test_answers_are_stored_with_usage_and_cost(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(10))

    build = answer(distillation)

    outputs = read_outputs(distillation, "all")
    assert sorted(outputs["completion"]) == sorted(f"Answer to question {number}" for number in range(10))
    assert outputs["status"].unique().to_list() == ["answered"]
    row = outputs.row(0, named=True)
    assert row["cost_microusd"] == row["input_tokens"] * 1 + row["output_tokens"] * 5
    assert build.partitions["all"].counts["answered"] == 10
    assert claude.bodies[0]["system"] == "Be brief."
    assert claude.in_flight_peak <= 4


def test_no_stored_answer_is_asked_for_again(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(6)))

    again = declare(spec(), rows__jsonl=rows(8))
    build = answer(again)

    assert build.asked is not None
    assert (build.asked.needed, build.asked.stored, build.asked.answered) == (8, 6, 2)
    assert len(claude.accepted) == 8
    assert ResponseStore(again.project.store_url).count() == 8


def test_a_template_that_changes_and_changes_back_asks_nothing(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), rows__jsonl=rows(3)))
    answer(declare(spec().replace("Be brief", "Be long"), rows__jsonl=rows(3)))
    answer(declare(spec(), rows__jsonl=rows(3)))

    assert len(claude.accepted) == 6


def test_two_distillations_share_answers(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(), name="one", rows__jsonl=rows(3)))
    answer(declare(spec("budget_usd: 1"), name="two", rows__jsonl=rows(3)))

    assert len(claude.accepted) == 3


def test_two_processes_at_once_pay_once(declare: Declare, claude: AnthropicServer) -> None:
    claude.script = lambda body, seen: Reply(delay_s=0.05)
    first = declare(spec(), name="one", rows__jsonl=rows(30))
    second = declare(spec(), name="two", rows__jsonl=rows(30))
    threads = [threading.Thread(target=answer, args=(distillation,)) for distillation in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claude.accepted) == 30
    assert len(read_outputs(first, "all")) == len(read_outputs(second, "all")) == 30


def test_thinking_comes_first_and_is_not_the_completion(declare: Declare, claude: AnthropicServer) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    claude.script = lambda body, seen: Reply(blocks=[thinking, {"type": "text", "text": "Yes."}])
    distillation = declare(spec("thinking_tokens: 1024").replace("50", "2000"), rows__jsonl=rows(1))

    answer(distillation)

    outputs = read_outputs(distillation, "all")
    assert outputs["completion"].to_list() == ["Yes."]
    assert outputs["thinking"].to_list() == [None]
    assert claude.bodies[0]["thinking"] == {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    ("reply", "status", "detail"),
    [
        (
            Reply(stop_reason="refusal", stop_details={"type": "refusal", "category": "bio"}, blocks=[]),
            "refused",
            "bio",
        ),
        (Reply(stop_reason="max_tokens"), "truncated", None),
        (Reply(stop_reason="tool_use"), "tool_use", None),
        (
            Reply(status=413, error_type="request_too_large", error_message="too large"),
            "error",
            "413 request_too_large: too large",
        ),
    ],
)
def test_every_ending_has_its_status(
    declare: Declare, claude: AnthropicServer, reply: Reply, status: str, detail: str | None
) -> None:
    claude.script = lambda body, seen: reply
    distillation = declare(spec(), rows__jsonl=rows(1))

    answer(distillation)

    outputs = read_outputs(distillation, "all")
    assert outputs["status"].to_list() == [status]
    assert outputs["detail"].to_list() == [detail]


def test_failures_that_may_pass_leave_the_rest_answered(declare: Declare, claude: AnthropicServer) -> None:
    """One prompt meets a server error that outlasts the retries; the next run asks just that one."""
    broken = {"question 3"}

    def script(body: dict[str, object], seen: int) -> Reply:
        text = str(body["messages"][-1]["content"])  # type: ignore[index]
        return Reply(status=529, headers={"retry-after-ms": "1"}) if text in broken else Reply()

    claude.script = script
    distillation = declare(spec(), rows__jsonl=rows(5))

    failed = answer(distillation)
    assert "1 of 5 requests got no answer" in failed.failed["all"]
    assert "HTTP 529" in failed.failed["all"]
    broken.clear()
    build = answer(distillation)

    assert build.failed == {}
    assert build.asked is not None
    assert build.asked.answered == 1
    assert len(claude.accepted) == 5


def test_a_missing_key_is_named_before_anything_is_sent(declare: Declare) -> None:
    distillation = declare(spec(), rows__jsonl=rows(1))

    build = answer(distillation)

    assert "set ANTHROPIC_API_KEY" in build.failed["all"]


def test_a_wrong_key_stops_at_once(declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
    build = answer(declare(spec(), rows__jsonl=rows(50)))

    assert "set a valid ANTHROPIC_API_KEY" in build.failed["all"]
    assert claude.accepted == []


def test_a_spending_limit_stops_at_once(declare: Declare, claude: AnthropicServer) -> None:
    limit = Reply(
        status=429,
        error_type="rate_limit_error",
        error_code="enforced_spend_limit_reached",
        headers={"retry-after-ms": "1"},
    )
    claude.script = lambda body, seen: limit if len(claude.accepted) >= 2 else Reply()

    build = answer(declare(spec(), rows__jsonl=rows(50)))

    assert "a spending limit is reached" in build.failed["all"]
    assert sum(claude.seen.values()) < 50


def test_an_unknown_price_is_an_error_and_never_free(declare: Declare, claude: AnthropicServer) -> None:
    build = answer(declare(spec().replace("claude-haiku-4-5", "claude-next"), rows__jsonl=rows(1)))

    assert "no price for anthropic model 'claude-next'" in build.failed["all"]
    assert claude.accepted == []


def test_the_budget_is_a_hard_stop_and_resumable(declare: Declare, claude: AnthropicServer) -> None:
    """Each request reserves what it can cost at most; the run stops before the limit and goes on when it is raised."""
    tight = declare(spec("budget_usd: 0.001"), rows__jsonl=rows(40))
    stopped = answer(tight)

    spent = ResponseStore(tight.project.store_url)
    assert "teacher.budget_usd" in stopped.failed["all"]
    assert 0 < len(claude.accepted) < 40
    assert spent.count() == len(claude.accepted)

    done = answer(declare(spec("budget_usd: 1"), rows__jsonl=rows(40)))

    assert done.failed == {}
    assert len(claude.accepted) == 40


def test_the_key_is_nowhere_on_disk(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(), rows__jsonl=rows(3))
    answer(distillation)

    files = [path for path in Path(distillation.project.home).rglob("*") if path.is_file()]
    assert files
    assert all(KEY.encode() not in path.read_bytes() for path in files)


def test_a_user_set_limit_stops_too_and_makes_no_error_row(declare: Declare, claude: AnthropicServer) -> None:
    """It comes as a plain 400, which for any other reason would be a final answer."""
    claude.script = lambda body, seen: user_spend_limit() if len(claude.accepted) >= 2 else Reply()
    distillation = declare(spec(), rows__jsonl=rows(30))

    build = answer(distillation)

    assert "a spending limit is reached" in build.failed["all"]
    assert ResponseStore(distillation.project.store_url).count() == len(claude.accepted)
    claude.script = lambda body, seen: Reply()
    assert answer(distillation).partitions["all"].counts["answered"] == 30


def test_a_stop_ends_those_that_wait_to_ask_again_too(declare: Declare, claude: AnthropicServer) -> None:
    def script(body: dict[str, object], seen: int) -> Reply:
        return Reply(status=500) if "question 1" in str(body["messages"]) else Reply(status=401)

    claude.script = script
    build = answer(declare(spec(), rows__jsonl=rows(20)))

    assert "set a valid ANTHROPIC_API_KEY" in build.failed["all"]
    assert sum(claude.seen.values()) <= 8  # four at once, each at most once more
