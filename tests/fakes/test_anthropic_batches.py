"""The stand-in's Message Batches: their life, and what the real SDK makes of the ways in which they break."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AnthropicError, AsyncAnthropic

from tests.fakes.anthropic_asking import HEADERS, TRANSPORTS, Transport, body, client, drive, post
from tests.fakes.anthropic_batches import Ending
from tests.fakes.anthropic_server import AnthropicServer, FaultMix, Reply, anthropic_server, spend_limit

QUICK_S = 1.0
PATH = "/v1/messages/batches"


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with anthropic_server() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[AnthropicServer]:
    """For many tests that leave nothing behind."""
    with anthropic_server() as running:
        yield running


def requests(count: int) -> list[Any]:
    return [{"custom_id": f"id-{number}", "params": body(f"question {number}")} for number in range(count)]


def counts(**outcomes: int) -> dict[str, int]:
    return {**dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0), **outcomes}


def make(server: AnthropicServer, count: int) -> str:
    return client(server).messages.batches.create(requests=requests(count)).id


def results(server: AnthropicServer, batch_id: str) -> dict[str, Any]:
    asking = client(server)  # results do not keep their client alive, and one that is collected closes its connections
    return {row.custom_id: row.result for row in asking.messages.batches.results(batch_id)}


def read(server: AnthropicServer, transport: Transport, batch_id: str, rows: list[str], **options: Any) -> None:
    """Reads results into `rows`, which keeps what came before an error."""

    async def act(asking: AsyncAnthropic) -> None:
        async for row in await asking.messages.batches.results(batch_id):
            rows.append(row.custom_id)

    drive(server.url, transport, act, **options)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_batch_from_creation_to_results(server: AnthropicServer, transport: Transport) -> None:
    async def act(asking: AsyncAnthropic) -> tuple[Any, Any, list[Any]]:
        made = await asking.messages.batches.create(requests=requests(30))
        ended = await asking.messages.batches.retrieve(made.id)
        return made, ended, [row async for row in await asking.messages.batches.results(made.id)]

    made, ended, rows = drive(server.url, transport, act)

    assert (made.processing_status, ended.processing_status) == ("in_progress", "ended")
    assert made.request_counts.to_dict() == counts(processing=30)
    assert ended.request_counts.to_dict() == counts(succeeded=30)
    assert made.results_url is made.ended_at is None
    assert ended.results_url == f"{server.url}{PATH}/{made.id}/results"
    assert (ended.expires_at - ended.created_at).total_seconds() == 24 * 3600
    assert ended.ended_at >= ended.created_at
    ids = [f"id-{number}" for number in range(30)]
    assert [row.custom_id for row in rows] != ids
    assert sorted(row.custom_id for row in rows) == sorted(ids)
    assert {row.result.message.usage.service_tier for row in rows} == {"batch"}
    assert all(row.result.message.content[0].text.endswith(row.custom_id.removeprefix("id-")) for row in rows)
    assert server.accepted_ids == ids
    assert server.accepted[1:] == [f"question {number}" for number in range(30)]


def test_a_batch_that_takes_its_time(server: AnthropicServer) -> None:
    server.hold_batches = True
    batch_id = make(server, 2)
    assert client(server).messages.batches.retrieve(batch_id).processing_status == "in_progress"
    with pytest.raises(AnthropicError, match="results_url"):
        results(server, batch_id)
    assert httpx2.get(f"{server.url}{PATH}/{batch_id}/results", headers=HEADERS).status_code == 404
    assert server.accepted == []

    server.end_batches()

    assert server.accepted == ["question 0", "question 1"]
    assert client(server).messages.batches.retrieve(batch_id).processing_status == "ended"
    server.hold_batches, server.batch_ends_after_s = False, 600
    assert client(server).messages.batches.retrieve(make(server, 1)).processing_status == "in_progress"


def test_every_outcome_of_a_request(server: AnthropicServer) -> None:
    endings: dict[str, Reply | Ending] = {
        "id-1": Reply(status=500, error_message="broken"),
        "id-2": "expired",
        "id-3": "canceled",
    }
    server.batch_script = lambda params, custom_id: endings.get(custom_id, Reply())
    sent = [*requests(4), {"custom_id": "bad", "params": body(temperature=1)}]

    batch = client(server).messages.batches.create(requests=sent)
    ended = client(server).messages.batches.retrieve(batch.id)
    rows = results(server, batch.id)

    assert ended.request_counts.to_dict() == counts(succeeded=1, errored=2, canceled=1, expired=1)
    assert {key: row.type for key, row in rows.items()} == {
        "id-0": "succeeded",
        "id-1": "errored",
        "id-2": "expired",
        "id-3": "canceled",
        "bad": "errored",
    }
    assert rows["id-1"].error.error.to_dict() == {"type": "api_error", "message": "broken"}
    assert rows["bad"].error.error.type == "invalid_request_error"
    assert server.accepted_ids == ["id-0"]


def test_the_script_and_the_mix_decide_about_batches_too(server: AnthropicServer) -> None:
    mix = FaultMix(rate=0.1)
    server.script = lambda sent, seen: Reply(text="Scripted.")
    scripted = results(server, make(server, 1))
    server.batch_script = mix.batch_script
    rows = results(server, make(server, 100))

    assert scripted["id-0"].message.content[0].text == "Scripted."
    for request in requests(100):
        result = rows[request["custom_id"]]
        errored = mix.expected(request["params"]) == "error"
        assert result.type == ("errored" if errored else "succeeded")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({}, "requests: Field required"),
        ({"requests": []}, "between 1 and 100000"),
        ({"requests": requests(1), "metadata": {}}, "metadata: Extra inputs"),
        ({"requests": [{"custom_id": "a"}]}, "exactly custom_id and params"),
        ({"requests": [{"custom_id": "a", "params": {}, "x": 1}]}, "exactly custom_id and params"),
        ({"requests": [{"custom_id": "a b", "params": {}}]}, "match pattern"),
        ({"requests": [{"custom_id": "a" * 65, "params": {}}]}, "match pattern"),
        ({"requests": [{"custom_id": "a\n", "params": {}}]}, "match pattern"),
        ({"requests": requests(1) * 2}, "Duplicate custom_id"),
    ],
)
def test_creation_is_strict(shared: AnthropicServer, sent: Any, said: str) -> None:
    answer = post(shared, sent, PATH)

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert shared.batches == []


def test_a_batch_has_at_most_so_many_bytes(server: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.anthropic_batches.MOST_BATCH_BYTES", 100)
    with pytest.raises(anthropic.ContentTooLargeError):
        make(server, 3)


def test_lists_are_newest_first_and_paged(server: AnthropicServer) -> None:
    ids = [make(server, 1) for _ in range(5)][::-1]
    batches = client(server).messages.batches

    page = batches.list(limit=2)
    assert ([batch.id for batch in page.data], page.has_more) == (ids[:2], True)
    assert (page.first_id, page.last_id) == (ids[0], ids[1])
    assert [batch.id for batch in batches.list(limit=2)] == ids
    last = batches.list(limit=2, after_id=ids[2])
    assert ([batch.id for batch in last.data], last.has_more) == (ids[3:], False)
    before = batches.list(limit=2, before_id=ids[3])
    assert ([batch.id for batch in before.data], before.has_more) == (ids[1:3], True)
    assert [batch.id for batch in batches.list(before_id=ids[1]).data] == ids[:1]
    for limit in (0, 1001):
        with pytest.raises(anthropic.BadRequestError):
            batches.list(limit=limit)


def test_a_canceled_batch(server: AnthropicServer) -> None:
    server.hold_batches = True
    server.cancel_completes = 1
    batch_id = make(server, 3)
    canceling = client(server).messages.batches.cancel(batch_id)
    server.hold_batches = False
    ended = client(server).messages.batches.retrieve(batch_id)

    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert ended.request_counts.to_dict() == counts(succeeded=1, canceled=2)
    assert server.accepted_ids == ["id-0"]
    with pytest.raises(anthropic.BadRequestError, match="already ended"):
        client(server).messages.batches.cancel(batch_id)


def test_only_an_ended_batch_can_be_deleted(server: AnthropicServer) -> None:
    batch_id = make(server, 1)
    batches = client(server).messages.batches
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        batches.delete(batch_id)
    batches.retrieve(batch_id)

    assert batches.delete(batch_id).type == "message_batch_deleted"

    assert batches.list().data == []
    with pytest.raises(anthropic.NotFoundError):
        batches.retrieve(batch_id)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("moment", "made"), [("before", 0), ("after", 1)])
def test_a_creation_whose_connection_drops(
    server: AnthropicServer, transport: Transport, moment: Any, made: int
) -> None:
    server.drop_create = moment

    with pytest.raises(anthropic.APIConnectionError):
        drive(server.url, transport, lambda asking: asking.messages.batches.create(requests=requests(2)))

    assert len(server.batches) == made
    if made:
        assert server.batches[0].requests == requests(2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_sdk_pays_again_after_a_drop(server: AnthropicServer, transport: Transport) -> None:
    server.drop_create = ["after", "after"]

    drive(server.url, transport, lambda asking: asking.messages.batches.create(requests=requests(2)), max_retries=2)

    assert len(server.batches) == 3


@pytest.mark.parametrize(("moment", "made"), [("before", 0), ("after", 1)])
def test_a_creation_that_stalls(server: AnthropicServer, moment: Any, made: int) -> None:
    server.stall_create = [moment]
    failed: list[BaseException] = []

    def create() -> None:
        try:
            client(server, timeout=QUICK_S).messages.batches.create(requests=requests(1))
        except anthropic.APITimeoutError as error:
            failed.append(error)

    thread = threading.Thread(target=create)
    thread.start()
    assert server.stalled.wait(10)
    assert len(server.batches) == made
    thread.join(10)
    assert len(failed) == 1


def test_scripted_errors(server: AnthropicServer) -> None:
    batches = client(server).messages.batches
    server.create_reply = [Reply(status=529), spend_limit(), Reply(fault="garbage"), None]
    with pytest.raises(anthropic.OverloadedError):
        make(server, 1)
    with pytest.raises(anthropic.RateLimitError):
        make(server, 1)
    with pytest.raises(json.JSONDecodeError):
        make(server, 1)
    assert len(server.batches) == 1
    batch_id = make(server, 1)
    server.retrieve_reply = server.list_reply = Reply(status=500)
    with pytest.raises(anthropic.InternalServerError):
        batches.retrieve(batch_id)
    with pytest.raises(anthropic.InternalServerError):
        batches.list()
    server.retrieve_reply, server.results_reply = None, Reply(status=504)
    with pytest.raises(anthropic.GatewayTimeoutError):
        results(server, batch_id)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_aiohttp_itself_sends_a_get_again(server: AnthropicServer, transport: Transport) -> None:
    """On a connection that was used before, and whatever `max_retries` says."""
    server.list_reply = [Reply(fault="reset_before"), None]

    async def act(asking: AsyncAnthropic) -> int:
        return len((await asking.messages.batches.list()).data)

    if transport == "aiohttp":
        assert drive(server.url, transport, act) == 0
    else:
        with pytest.raises(anthropic.APIConnectionError):
            drive(server.url, transport, act)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_results_cut_between_lines_raise_nothing(server: AnthropicServer, transport: Transport) -> None:
    batch_id = make(server, 10)
    server.cut_results, server.cut_results_after = ["line"], 4
    cut: list[str] = []
    whole: list[str] = []

    read(server, transport, batch_id, cut)
    read(server, transport, batch_id, whole)

    assert (len(cut), len(whole)) == (4, 10)
    assert cut == whole[:4]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_results_cut_within_a_line(server: AnthropicServer, transport: Transport) -> None:
    batch_id = make(server, 10)
    server.cut_results, server.cut_results_after = ["mid", "break"], 4
    rows: list[str] = []
    broken = {"httpx2": httpx2.RemoteProtocolError, "aiohttp": httpx2.ReadError}[transport]

    with pytest.raises(json.JSONDecodeError):
        read(server, transport, batch_id, rows)
    with pytest.raises(broken):
        read(server, transport, batch_id, rows)

    assert len(rows) == 8


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_results_that_stall(server: AnthropicServer, transport: Transport) -> None:
    batch_id = make(server, 10)
    server.stall_results_after = 3
    rows: list[str] = []

    with pytest.raises(httpx2.ReadTimeout):
        read(server, transport, batch_id, rows, timeout=QUICK_S)

    # The SDK reads 64 bytes at a time and holds the last ones back until it has the next.
    assert len(rows) == 2
    assert server.stalled.is_set()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_results_that_are_a_page_of_html(server: AnthropicServer, transport: Transport) -> None:
    batch_id = make(server, 10)
    server.garbage_results = True
    rows: list[str] = []

    with pytest.raises(json.JSONDecodeError):
        read(server, transport, batch_id, rows)

    assert rows == []


def test_the_log_tells_of_batches(server: AnthropicServer, tmp_path: Any) -> None:
    server.log = tmp_path / "log.jsonl"
    make(server, 1)
    server.end_batches()

    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == [{"prompt": "question 0", "via": "batch", "custom_id": "id-0"}]
