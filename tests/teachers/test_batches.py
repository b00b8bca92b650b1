"""Provider batches over real HTTP: half price, never one twice, and complete or not at all."""

from collections.abc import Callable

import pytest

from distill_dagster.project import Distillation
from distill_dagster.teachers.anthropic import batch_parts, batching, transport
from distill_dagster.teachers.outputs import read_outputs
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.ledger import BatchState, Ledger
from distill_dagster.teachers.store.responses import ResponseStore
from tests.fakes.anthropic_server import AnthropicServer, Reply, refusal, spend_limit
from tests.teachers.hosted import answer, rows, spec

Declare = Callable[..., Distillation]
BATCHES = "transport: batches"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "FIRST_POLL_S", 0.02)
    monkeypatch.setattr(batching, "LONGEST_POLL_S", 0.05)
    monkeypatch.setattr(batching, "GRACE_S", 0.3)


@pytest.fixture
def no_wait_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own retries of reads come back at once."""
    monkeypatch.setattr("anthropic._base_client.BaseClient._calculate_retry_timeout", lambda *args, **kwargs: 0.01)


def store_of(distillation: Distillation) -> ResponseStore:
    return ResponseStore(distillation.project.store_url)


def states(distillation: Distillation) -> list[str]:
    return [batch.state.value for batch in Ledger(store_of(distillation).engine).find(is_open=False)]


def spent(distillation: Distillation) -> int:
    with store_of(distillation).writing() as connection:
        return Budget.of(distillation.name, None).spent_in(connection)


def test_answers_come_through_one_batch_at_half_price(declare: Declare, claude: AnthropicServer) -> None:
    distillation = declare(spec(BATCHES), rows__jsonl=rows(20))

    build = answer(distillation)

    outputs = read_outputs(distillation, "all")
    assert build.failed == {}
    assert sorted(outputs["completion"]) == sorted(f"Answer to question {number}" for number in range(20))
    assert [len(batch.requests) for batch in claude.batches] == [19]  # one was asked as a trial
    by_batch = outputs.filter(outputs["request_key"].is_in(claude.accepted_ids))
    assert len(by_batch) == 19
    full = by_batch["input_tokens"] * 1 + by_batch["output_tokens"] * 5
    assert by_batch["cost_microusd"].to_list() == [-(-cost // 2) for cost in full]
    assert spent(distillation) == outputs["cost_microusd"].sum() == build.asked.cost_microusd
    assert states(distillation) == ["ingested"]


def test_answers_serve_both_transports(declare: Declare, claude: AnthropicServer) -> None:
    answer(declare(spec(BATCHES), rows__jsonl=rows(6)))
    build = answer(declare(spec("transport: messages"), rows__jsonl=rows(8)))

    assert build.asked.answered == 2
    assert len(claude.accepted) == 8


def test_a_batch_is_split_by_count_and_by_size(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_parts, "MOST_REQUESTS", 8)
    distillation = declare(spec(BATCHES), rows__jsonl=rows(20))
    answer(distillation)
    assert [len(batch.requests) for batch in claude.batches] == [8, 8, 3]

    monkeypatch.setattr(batch_parts, "MOST_REQUESTS", 1000)
    monkeypatch.setattr(batch_parts, "MOST_BYTES", 2_000)
    answer(declare(spec(BATCHES), rows__jsonl=rows(40)))
    sizes = [len(batch.requests) for batch in claude.batches[3:]]
    assert sum(sizes) == 20
    assert 1 < max(sizes) < 10
    assert len(set(claude.accepted)) == len(claude.accepted) == 40


def test_without_waiting_a_later_call_collects(declare: Declare, claude: AnthropicServer) -> None:
    claude.hold_batches = True
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    first = answer(distillation, wait=False)
    second = answer(distillation, wait=False)
    claude.end_batches()
    third = answer(distillation, wait=False)

    assert first.waiting == second.waiting == {"all": 9}
    assert first.failed == second.failed == {}
    assert len(claude.batches) == 1
    assert third.waiting == {}
    assert third.partitions["all"].counts["answered"] == 10


def test_a_trial_that_the_api_refuses_sends_no_batch(declare: Declare, claude: AnthropicServer) -> None:
    wrong = Reply(status=400, error_type="invalid_request_error", error_message="max_tokens: too many for this model")
    claude.script = lambda body, seen: wrong
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    build = answer(distillation)

    assert "no batch was sent" in build.failed["all"]
    assert "max_tokens: too many for this model" in build.failed["all"]
    assert claude.batches == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_creation_whose_answer_was_lost_is_found_again_or_sent_once_more(
    declare: Declare, claude: AnthropicServer, moment: str
) -> None:
    claude.drop_create = [moment]  # type: ignore[list-item]
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    build = answer(distillation)

    assert build.failed == {}
    assert len(claude.batches) == 1
    assert len(claude.accepted) == len(set(claude.accepted)) == 10
    assert states(distillation) == (["ingested"] if moment == "after" else ["abandoned", "ingested"])
    assert spent(distillation) == read_outputs(distillation, "all")["cost_microusd"].sum()


def test_a_server_error_on_creation_is_looked_into_before_anything_is_sent_again(
    declare: Declare, claude: AnthropicServer
) -> None:
    claude.create_reply = [Reply(status=500)]
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    answer(distillation)

    assert len(claude.batches) == 1
    assert states(distillation) == ["abandoned", "ingested"]


def test_a_refused_creation_is_tried_again_and_a_spending_limit_is_not(
    declare: Declare, claude: AnthropicServer
) -> None:
    claude.create_reply = [Reply(status=429, error_type="rate_limit_error", headers={"retry-after-ms": "10"})]
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    assert answer(distillation).failed == {}

    claude.create_reply = spend_limit()
    more = declare(spec(BATCHES), rows__jsonl=rows(20))
    build = answer(more)
    assert "a spending limit is reached" in build.failed["all"]
    assert len(claude.batches) == 1

    claude.create_reply = None
    assert answer(more).failed == {}
    assert len(claude.accepted) == len(set(claude.accepted)) == 20


def test_another_ones_batch_of_equal_size_is_recognised_by_its_results(
    declare: Declare, claude: AnthropicServer
) -> None:
    """Ours was never made; a stranger's with as many requests looks like it until its results are read."""
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    claude.drop_create = ["before"]
    made = make_strangers_batch(claude, 9)

    build = answer(distillation)

    assert build.failed == {}
    assert claude.batches[0].id == made
    assert len(claude.batches) == 2
    outputs = read_outputs(distillation, "all")
    assert sorted(outputs["completion"]) == sorted(f"Answer to question {number}" for number in range(10))


def make_strangers_batch(claude: AnthropicServer, requests: int) -> str:
    import anthropic

    with anthropic.Anthropic(base_url=claude.url) as client:
        params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "stranger"}]}
        bodies = [{"custom_id": f"stranger-{number}", "params": params} for number in range(requests)]
        return client.messages.batches.create(requests=bodies).id  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", ["line", "mid", "break"])
def test_a_cut_results_stream_is_read_again(
    declare: Declare, claude: AnthropicServer, no_wait_for_http: None, cut: str
) -> None:
    claude.cut_results = [cut]  # type: ignore[list-item]
    claude.cut_results_after = 4
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    build = answer(distillation)

    assert build.failed == {}
    assert len(read_outputs(distillation, "all")) == 10
    assert len(claude.accepted) == 10


def test_results_that_never_come_whole_are_not_stored_at_all(
    declare: Declare, claude: AnthropicServer, no_wait_for_http: None
) -> None:
    claude.cut_results = "line"
    claude.cut_results_after = 4
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    build = answer(distillation)
    assert "4 of 9 results came through" in build.failed["all"]
    assert store_of(distillation).count() == 1

    claude.cut_results = None
    assert answer(distillation).failed == {}
    assert len(claude.accepted) == 10


def test_expired_and_failed_rows_are_asked_again_and_refused_ones_are_final(
    declare: Declare, claude: AnthropicServer
) -> None:
    seen: dict[str, int] = {}

    def script(body: dict[str, object], custom_id: str) -> object:
        text = str(body["messages"][-1]["content"])  # type: ignore[index]
        seen[text] = seen.get(text, 0) + 1
        if text == "question 3":
            return refusal("cyber")
        if text == "question 4":
            return Reply(status=400, error_type="invalid_request_error", error_message="too long")
        if text in ("question 5", "question 6", "question 7") and seen[text] == 1:
            return {"5": "expired", "6": "canceled", "7": Reply(status=500)}[text[-1]]
        return Reply(text=f"Answer to {text}")

    claude.batch_script = script  # type: ignore[assignment]
    claude.script = lambda body, seen: script(body, "")  # type: ignore[assignment,return-value]
    distillation = declare(spec(BATCHES, "budget_usd: 1"), rows__jsonl=rows(10))

    build = answer(distillation)

    outputs = read_outputs(distillation, "all")
    assert build.failed == {}
    assert outputs["status"].value_counts().sort("status").rows() == [("answered", 8), ("error", 1), ("refused", 1)]
    assert build.partitions["all"].counts["refused: cyber"] == 1
    assert len(claude.batches) == 2
    assert len(claude.accepted_ids) == len(set(claude.accepted_ids))
    assert spent(distillation) == outputs["cost_microusd"].sum()


def test_batches_that_bring_nothing_end_with_a_clear_error(declare: Declare, claude: AnthropicServer) -> None:
    claude.batch_script = lambda body, custom_id: "expired"
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))

    build = answer(distillation)

    assert "9 requests came back from 2 rounds of batches without an answer" in build.failed["all"]
    assert len(claude.accepted) == 1


def test_a_budget_sends_what_it_allows_and_goes_on_later(declare: Declare, claude: AnthropicServer) -> None:
    tight = declare(spec(BATCHES, "budget_usd: 0.0006"), rows__jsonl=rows(40))
    stopped = answer(tight)

    assert "teacher.budget_usd" in stopped.failed["all"]
    assert 0 < len(claude.accepted) < 40
    assert spent(tight) <= 600

    done = answer(declare(spec(BATCHES, "budget_usd: 1"), rows__jsonl=rows(40)))
    assert done.failed == {}
    assert len(claude.accepted) == len(set(claude.accepted)) == 40


def test_results_that_the_provider_no_longer_keeps_are_given_up(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    claude.hold_batches = True
    answer(distillation, wait=False)
    claude.end_batches()
    claude.hold_batches = False
    with monkeypatch.context() as patched:
        patched.setattr(
            "distill_dagster.teachers.anthropic.batches.BatchClient.retrieve",
            lambda self, provider_id: _without_results(claude),
        )
        answer(distillation, wait=False)

    build = answer(distillation)

    assert build.failed == {}
    assert states(distillation) == ["abandoned", "ingested", "ingested"][: len(states(distillation))]
    assert len(read_outputs(distillation, "all")) == 10


def _without_results(claude: AnthropicServer) -> object:
    from distill_dagster.teachers.anthropic.batches import ProviderBatch

    return ProviderBatch(claude.batches[0].id, True, False, {"succeeded": 9}, 0, 1)


def test_auto_goes_by_the_number_of_missing_answers(
    declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "BATCHES_FROM", 10)
    answer(declare(spec("transport: auto"), rows__jsonl=rows(9)))
    assert claude.batches == []

    answer(declare(spec("transport: auto"), rows__jsonl=rows(25)))
    assert [len(batch.requests) for batch in claude.batches] == [16]


def test_a_batch_under_way_is_waited_for_by_the_other_transport(declare: Declare, claude: AnthropicServer) -> None:
    claude.hold_batches = True
    answer(declare(spec(BATCHES), rows__jsonl=rows(10)), wait=False)
    still = answer(declare(spec("transport: messages"), rows__jsonl=rows(12)), wait=False)
    assert still.waiting == {"all": 9}
    assert len(claude.accepted) == 3

    claude.hold_batches = False
    claude.end_batches()
    build = answer(declare(spec("transport: messages"), rows__jsonl=rows(12)))

    assert build.failed == {}
    assert len(claude.accepted) == len(set(claude.accepted)) == 12


def test_a_batch_of_another_workspace_says_what_to_do(
    declare: Declare, claude: AnthropicServer, no_wait_for_http: None
) -> None:
    claude.hold_batches = True
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    answer(distillation, wait=False)
    claude.retrieve_reply = Reply(status=404, error_type="not_found_error")

    build = answer(distillation)

    assert "--give-up" in build.failed["all"]
    assert Ledger(store_of(distillation).engine).find()[0].state is BatchState.CREATED


def test_an_api_that_is_away_for_a_while_is_waited_out(
    declare: Declare, claude: AnthropicServer, no_wait_for_http: None
) -> None:
    claude.hold_batches = True
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    answer(distillation, wait=False)
    away: list[Reply | None] = [None, *[Reply(status=500)] * 12]  # more than the SDK's own retries
    claude.retrieve_reply = away
    claude.hold_batches = False

    build = answer(distillation)

    assert away == []
    assert build.failed == {}
    assert len(claude.accepted) == 10


def test_an_api_that_stays_away_ends_the_wait_and_nothing_is_lost(
    declare: Declare, claude: AnthropicServer, no_wait_for_http: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "MOST_FAILURES", 3)
    distillation = declare(spec(BATCHES), rows__jsonl=rows(10))
    claude.retrieve_reply = Reply(status=500)

    build = answer(distillation)
    assert "run again later" in build.failed["all"]

    claude.retrieve_reply = None
    assert answer(distillation).failed == {}
    assert len(claude.batches) == 1
