"""Claims: one owner at a time, expiring, and free again when the owner's process is gone."""

import subprocess
import sys
import threading

from sqlalchemy import Engine, update

from distill_dagster.teachers.store.database import writing
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.teachers.store.schema import leases


def test_one_owner_at_a_time(engine: Engine) -> None:
    first, second = Leases(engine), Leases(engine)

    assert first.acquire(["a", "b"]) == {"a", "b"}
    assert second.acquire(["b", "c"]) == {"c"}
    first.release_all()
    assert second.acquire(["b"]) == {"b"}


def test_what_is_held_already_is_not_claimed_again(engine: Engine) -> None:
    mine = Leases(engine)

    assert mine.acquire(["a"]) == {"a"}
    assert mine.acquire(["a"]) == set()


def test_an_expired_claim_is_free(engine: Engine) -> None:
    Leases(engine, ttl_s=-1).acquire(["a"])

    assert Leases(engine).acquire(["a"]) == {"a"}


def test_renewal_prolongs(engine: Engine) -> None:
    first, second = Leases(engine), Leases(engine)
    first.acquire(["a"])
    with writing(engine) as connection:
        connection.execute(update(leases).values(expires_at=0))
    first.renew()

    assert second.acquire(["a"]) == set()


def test_the_claim_of_a_dead_process_is_free_at_once(engine: Engine) -> None:
    code = (
        "import sys; from distill_dagster.teachers.store.database import open_database;"
        "from distill_dagster.teachers.store.leases import Leases;"
        "print(Leases(open_database(sys.argv[1])).acquire(['a']))"
    )
    url = engine.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "{'a'}"
    assert Leases(engine).acquire(["a"]) == {"a"}


def test_holding_waits_for_the_other(engine: Engine) -> None:
    order: list[str] = []
    waiting = threading.Event()
    first = Leases(engine)

    def second() -> None:
        with Leases(engine).hold("build/x", waiting=waiting.set):
            order.append("second")

    with first.hold("build/x"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)

    assert order == ["first", "second"]
