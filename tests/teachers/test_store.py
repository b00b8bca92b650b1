"""The response store: an answer is stored once and comes back as it was."""

import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

import polars as pl
import pytest

from distill_dagster.errors import StorageError
from distill_dagster.teachers.protocol import Response, ResponseStatus, TeacherIdentity, Usage
from distill_dagster.teachers.store.budget import Budget
from distill_dagster.teachers.store.responses import ResponseStore
from distill_dagster.teachers.store.schema import responses

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


def test_settling_a_request_does_not_walk_through_the_account(tmp_path: Path) -> None:
    """With an index on each column alone, SQLite reads all of a distillation's rows for every single answer."""
    store, budget = ResponseStore(f"sqlite:///{tmp_path / 'store.sqlite'}"), Budget("faq", None)
    with store.writing() as connection:
        budget.reserve_in(connection, {"a": 1})
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN UPDATE spending SET actual_microusd = 1 "
            "WHERE distillation = 'faq' AND request_key = 'a' AND actual_microusd IS NULL"
        ).all()
    assert "distillation=? AND request_key=?" in str(plan)


def test_a_database_of_an_earlier_release_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    columns = ", ".join(
        f"{column.name} {column.type}" for column in responses.columns if not column.name.startswith("cache_")
    )
    with sqlite3.connect(path) as old:
        old.execute(f"CREATE TABLE responses ({columns}, PRIMARY KEY (request_key))")
    store = ResponseStore(f"sqlite:///{path}")

    add(store, response("a"))

    assert store.fetch(pl.Series(["a"]))["cache_read_tokens"].to_list() == [None]


def test_a_text_with_nul_is_stored_on_every_database(store_url: str) -> None:
    store = ResponseStore(store_url)
    add(store, response("a", "zero \0 here"))

    assert store.fetch(pl.Series(["a"]))["completion"].to_list() == ["zero \N{REPLACEMENT CHARACTER} here"]


def open_stores(folder: Path, files: int, together: Barrier) -> int:
    """Opens new files, each at the same moment as the other process does."""
    for number in range(files):
        together.wait(30)
        ResponseStore(f"sqlite:///{folder / str(number)}.sqlite")
    return files


def test_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(3, context) as processes:
        together = manager.Barrier(3)
        opened = [processes.submit(open_stores, tmp_path, 40, together) for _ in range(3)]

        assert [process.result() for process in opened] == [40, 40, 40]
