"""The response store: an answer is stored once and comes back as it was."""

import polars as pl
import pytest

from distill_dagster.errors import StorageError
from distill_dagster.teachers.budget import Budget
from distill_dagster.teachers.protocol import Response, ResponseStatus, TeacherIdentity, Usage
from distill_dagster.teachers.store import ResponseStore

IDENTITY = TeacherIdentity("anthropic", "claude-haiku-4-5", {"max_tokens": 10})


def response(key: str, text: str = "Zoë answers 漢字 🙂") -> Response:
    return Response(
        key, ResponseStatus.ANSWERED, "end_turn", text, "[]", Usage(3, 4, 23), token_ids=[1, 2, 49151], response_id="m1"
    )


def add(store: ResponseStore, *answers: Response) -> None:
    with store.writing() as connection:
        store.add_in(connection, answers, IDENTITY, transport="messages", client_version="test 1")


def test_an_answer_comes_back_as_it_was(store_url: str) -> None:
    store = ResponseStore(store_url)
    add(store, response("b"), response("a"))

    found = store.fetch(pl.Series(["a", "b", "c"]))

    assert found["request_key"].to_list() == ["a", "b"]
    assert found["completion"].to_list() == ["Zoë answers 漢字 🙂"] * 2
    assert found["token_ids"].to_list() == [[1, 2, 49151]] * 2
    assert found["cost_microusd"].sum() == 46
    assert store.missing(pl.Series(["a", "c", "b"])).to_list() == ["c"]


def test_the_first_answer_stays(store_url: str) -> None:
    store = ResponseStore(store_url)
    add(store, response("a", "first"))
    add(store, response("a", "second"), response("b"))

    assert store.fetch(pl.Series(["a"]))["completion"].to_list() == ["first"]
    assert store.count() == 2


def test_a_budget_grants_what_fits_and_counts_actual_costs(store_url: str) -> None:
    store, budget = ResponseStore(store_url), Budget("faq", 100)
    with store.writing() as connection:
        assert budget.reserve_in(connection, {"a": 60, "b": 60}) == ["a"]
    with store.writing() as connection:
        budget.settle_in(connection, {"a": 10})
        assert budget.spent_in(connection) == 10
        assert budget.reserve_in(connection, {"b": 60, "c": 30}) == ["b", "c"]
        budget.cancel_in(connection, ["c"])
        assert budget.spent_in(connection) == 70


def test_a_reservation_that_a_killed_process_left_counts_as_spent(store_url: str) -> None:
    store, budget = ResponseStore(store_url), Budget("faq", 100)
    with store.writing() as connection:
        budget.reserve_in(connection, {"a": 60})
    with store.writing() as connection:
        assert budget.reserve_in(connection, {"a": 60}) == []
        assert budget.spent_in(connection) == 60


def test_request_keys_depend_on_what_affects_the_answer_and_on_nothing_else() -> None:
    prompts = pl.DataFrame({"messages": ['[{"role":"user"}]'] * 2, "sample": [0, 1]})
    keys = IDENTITY.request_keys(prompts)
    other = TeacherIdentity("anthropic", "claude-haiku-4-5", {"max_tokens": 11}).request_keys(prompts)

    assert keys.n_unique() == 2
    assert set(keys).isdisjoint(other)
    assert keys[0] == "39c7b1a360781cadb604c3c83c96861509b624f6e0ffcd6a61f520802efea338"


def test_a_store_that_cannot_be_reached_hides_its_password() -> None:
    with pytest.raises(StorageError, match="check DISTILL_STORE_URL") as caught:
        ResponseStore("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
