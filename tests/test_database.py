"""The pool keeps its promises while Postgres, the network and its callers misbehave."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import closing

import psycopg2
import pytest

import storage.database
from protocol.codes import AppError, ErrorCode
from storage.database import BadData, Conflict, Database, Statement, StoreError, array
from tests.faults import Proxy, proxied, quietest_gap, sql, terminate_backends
from tests.harness import SOON_S, until

SIZE = 3

ECHO = Statement("test_echo", ("text", "int"), "SELECT $1, $2")
SLEEP = Statement("test_sleep", ("float8",), "SELECT 'slept' FROM pg_sleep($1)", urgent=True)
ONE = Statement("test_one", (), "SELECT 1")
ADD = Statement("test_add", ("uuid", "text"), "INSERT INTO profiles (id, username) VALUES ($1, $2) RETURNING username")
LOG = Statement("test_log", ("text",), "INSERT INTO runs VALUES ($1) RETURNING note")
COUNT = Statement("test_count", (), "SELECT count(*) FROM profiles")
PREPARED = Statement("test_prepared", (), "SELECT count(*) FROM pg_prepared_statements WHERE name = 'test_count'")

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


@contextlib.asynccontextmanager
async def opened(dsn: str, *, size: int = SIZE, deadline_s: float = 5) -> AsyncIterator[Database]:
    """Open a pool."""
    database = Database(dsn, size=size, deadline_s=deadline_s)
    await database.connect()
    try:
        yield database
    finally:
        await database.close()


async def whole(database: Database, size: int = SIZE) -> None:
    """Wait until every connection is open and idle again; they are opened on demand, so demand them."""
    give_up = time.monotonic() + SOON_S
    while database.free < size:
        assert time.monotonic() < give_up, f"{database.free} of {size} connections came back"
        await asyncio.gather(*(database.fetch(SLEEP, (0.01,), deadline_s=SOON_S) for _ in range(size)))


async def unavailable(call: "asyncio.Future[object] | asyncio.Task[object]") -> AppError:
    """Return the STORE_UNAVAILABLE that the call has to end with."""
    with pytest.raises(AppError) as caught:
        await call
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    assert caught.value.retry_after_ms
    return caught.value


async def test_a_reply_lost_after_the_commit_is_asked_for_again(dsn: str) -> None:
    """The caller gets its rows, and the statement has run twice: why every statement has to be idempotent."""
    sql(dsn, "CREATE TABLE runs (note text)")
    async with proxied(dsn) as proxy, opened(proxy.dsn) as database:
        proxy.lose_reply_to(b"'lost'")
        assert await database.fetch(LOG, ("lost",)) == [("lost",)]
        assert proxy.lost == 1
        assert sql(dsn, "SELECT count(*) FROM runs") == [(2,)]
        await whole(database)


async def test_a_frozen_postgres_fails_calls_at_their_deadline(dsn: str) -> None:
    """Those that wait for a connection too; the loop goes on, and the pool is whole again afterwards."""
    async with proxied(dsn) as proxy, opened(proxy.dsn, deadline_s=0.5) as database:
        await whole(database)
        proxy.freeze()

        async def fail() -> None:
            started = time.monotonic()
            for call in [asyncio.ensure_future(database.fetch(ONE)) for _ in range(3 * SIZE)]:
                await unavailable(call)
            assert 0.45 < time.monotonic() - started < 5

        assert await quietest_gap(fail, 0.2) < 0.2
        proxy.thaw()
        assert await database.fetch(ONE, deadline_s=5) == [(1,)]
        await whole(database)


async def test_calls_wait_while_postgres_is_away(dsn: str) -> None:
    """Nothing was sent yet, so a call tries for as long as it has time."""
    async with proxied(dsn) as proxy, opened(proxy.dsn) as database:
        await _away(proxy, database)
        calls = [asyncio.ensure_future(database.fetch(ONE)) for _ in range(3 * SIZE)]
        await until(lambda: database.waiting == 3 * SIZE)
        await proxy.open()
        assert await asyncio.gather(*calls) == [[(1,)]] * (3 * SIZE)
        await whole(database)


async def test_calls_fail_when_postgres_stays_away(dsn: str) -> None:
    """At their deadline, with no connection to it at all."""
    async with proxied(dsn) as proxy, opened(proxy.dsn, deadline_s=0.4) as database:
        await _away(proxy, database)
        started = time.monotonic()
        for call in [asyncio.ensure_future(database.fetch(ONE)) for _ in range(SIZE + 1)]:
            await unavailable(call)
        assert 0.3 < time.monotonic() - started < 5
        await proxy.open()
        assert await database.fetch(ONE, deadline_s=5) == [(1,)]


async def _away(proxy: Proxy, database: Database) -> None:
    proxy.refuse()
    with pytest.raises(AppError):
        await database.fetch(ONE, deadline_s=0.1)


async def test_terminated_connections_are_replaced_unnoticed(dsn: str) -> None:
    """Idle ones and the one that is at work; the caller hears nothing of it."""
    async with opened(dsn) as database:
        at_work = asyncio.ensure_future(database.fetch(SLEEP, (2,)))
        await until(lambda: sql(dsn, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        terminate_backends(dsn)
        assert await at_work == [("slept",)]
        assert await asyncio.gather(*(database.fetch(ONE) for _ in range(SIZE))) == [[(1,)]] * SIZE
        await whole(database)


async def test_an_address_that_nobody_listens_on_is_passed_over(dsn: str) -> None:
    """A name may have several addresses (IPv6 and IPv4), and only the second may answer."""
    async with proxied(dsn) as dead, proxied(dsn) as proxy:
        dead.refuse()
        both = psycopg2.extensions.make_dsn(proxy.dsn, host="127.0.0.1,127.0.0.1", port=f"{dead.port},{proxy.port}")
        async with opened(both) as database:
            assert await database.fetch(ONE) == [(1,)]
            await whole(database)


async def test_cancelled_calls_leak_no_connection(dsn: str) -> None:
    """Three hundred of them, at work and waiting for a connection."""
    async with opened(dsn) as database:
        cancelled = 0
        while cancelled < 300:
            calls = [asyncio.ensure_future(database.fetch(SLEEP, (0.05,))) for _ in range(4 * SIZE)]
            await until(
                lambda calls=calls: (
                    (database.waiting < 4 * SIZE and database.free == 0) or all(call.done() for call in calls)
                )
            )
            cancelled += sum(call.cancel() for call in calls)  # none, if this process was stopped meanwhile
            ends = await _ends(calls)
            assert all(isinstance(end, asyncio.CancelledError) or end == [("slept",)] for end in ends)
        await whole(database)
        at_work = [asyncio.ensure_future(database.fetch(SLEEP, (2,))) for _ in range(SIZE)]
        await until(lambda: database.free == 0 and database.waiting == 0)
        calls = [asyncio.ensure_future(database.fetch(ONE)) for _ in range(3 * SIZE)]
        await asyncio.sleep(0)
        for call in calls:  # a connection comes free for them afterwards
            call.cancel()
        assert await asyncio.gather(*at_work) == [[("slept",)]] * SIZE
        assert database.waiting == 0
        await whole(database)


async def _ends(calls: "list[asyncio.Future[object]]") -> list[object]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_too_many_waiting_are_refused_at_once(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that wait already are served."""
    monkeypatch.setattr(storage.database, "MAX_WAITING", 3)
    async with opened(dsn, size=1) as database:
        calls = [asyncio.ensure_future(database.fetch(SLEEP, (2,)))]
        await until(lambda: database.free == 0 and database.waiting == 0)
        calls += [asyncio.ensure_future(database.fetch(SLEEP, (0.0,))) for _ in range(3)]
        await until(lambda: database.waiting == 3)
        await asyncio.wait_for(unavailable(asyncio.ensure_future(database.fetch(ONE))), 3)
        assert await asyncio.gather(*calls) == [[("slept",)]] * 4


BAD_VALUES = {
    "NUL": ("a\x00b", 1),
    "a lone surrogate": ("\ud800", 1),
    "an int too large": ("a", 2**40),
    "a word for an int": ("a", "b"),
    "too few": ("a",),
    "too many": ("a", 1, 2),
    "none at all": (),
    "no SQL value": (object(), 1),
}


@pytest.mark.parametrize("prepares", [True, False])
@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES.keys())
async def test_values_that_are_no_values(dsn: str, values: tuple[object, ...], prepares: bool) -> None:
    """They are an error of the store's own, with prepared statements and without, and cost no connection."""
    async with opened(dsn, size=1) as database:
        if not prepares:
            await _lose_prepared_statements(dsn, database)
        for _ in range(3):
            with pytest.raises(StoreError):
                await database.fetch(ECHO, values)
        assert database.free == 1
        assert await database.fetch(ECHO, ("%s \\ '", 1)) == [("%s \\ '", 1)]


async def test_postgres_own_timeouts(dsn: str) -> None:
    """A statement that runs or waits for a lock too long is ended by Postgres itself, and keeps its connection."""
    async with opened(dsn, size=1, deadline_s=0.3) as database:
        pid = await _backend(database)
        await unavailable(asyncio.ensure_future(database.fetch(SLEEP, (20,), deadline_s=10)))
        with closing(psycopg2.connect(dsn)) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE profiles IN ROW EXCLUSIVE MODE; LOCK TABLE profiles IN SHARE MODE")
            await unavailable(asyncio.ensure_future(database.fetch(ADD, (ALICE, "alice"), deadline_s=10)))
        assert await database.fetch(ADD, (ALICE, "alice"), deadline_s=10) == [("alice",)]
        assert await _backend(database) == pid


_BACKEND = Statement("test_backend", (), "SELECT pg_backend_pid()")


async def _backend(database: Database) -> int:
    return int((await database.fetch(_BACKEND, deadline_s=10))[0][0])


async def test_a_read_only_database_is_trouble_of_the_store(dsn: str) -> None:
    """A failover's old primary: reads go on, a write may succeed shortly."""
    name = psycopg2.extensions.parse_dsn(dsn)["dbname"]
    sql(dsn, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with opened(dsn) as database:
        await unavailable(asyncio.ensure_future(database.fetch(ADD, (ALICE, "alice"))))
        assert await database.fetch(COUNT) == [(0,)]
        from_beside = psycopg2.extensions.make_dsn(dsn, dbname="postgres")
        sql(from_beside, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        terminate_backends(dsn)
        assert await database.fetch(ADD, (ALICE, "alice")) == [("alice",)]


async def test_a_refused_row_names_the_rule(dsn: str) -> None:
    """Unique and foreign keys."""
    async with opened(dsn, size=1) as database:
        await database.fetch(ADD, (ALICE, "alice"))
        with pytest.raises(Conflict) as caught:
            await database.fetch(ADD, (BOB, "alice"))
        assert caught.value.constraint == "profiles_username_key"
        with pytest.raises(BadData):
            await database.fetch(ADD, ("no uuid", "bob"))
        assert database.free == 1


async def test_statements_are_prepared_once(dsn: str) -> None:
    """Planning is half of a short statement's time."""
    async with opened(dsn, size=1) as database:
        for _ in range(3):
            await database.fetch(COUNT)
        assert await database.fetch(PREPARED) == [(1,)]


async def test_a_failed_preparation_is_no_pooler(dsn: str) -> None:
    """A statement whose PREPARE met a lock is prepared the next time."""
    async with opened(dsn, size=1, deadline_s=0.3) as database:
        with closing(psycopg2.connect(dsn)) as other, other.cursor() as cursor:
            cursor.execute("LOCK TABLE profiles")
            await unavailable(asyncio.ensure_future(database.fetch(COUNT, deadline_s=10)))
        assert await database.fetch(COUNT, deadline_s=10) == [(0,)]
        assert await database.fetch(PREPARED, deadline_s=10) == [(1,)]


async def _lose_prepared_statements(dsn: str, database: Database) -> None:
    """Make the next call find its statement gone, as behind a transaction pooler."""
    sql(dsn, "CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS $$BEGIN DEALLOCATE ALL; RETURN 1; END$$")
    await database.fetch(COUNT)
    await database.fetch(Statement("test_forget", (), "SELECT forget()"))
    assert await database.fetch(COUNT) == [(0,)]


async def test_lost_prepared_statements_are_done_without(dsn: str) -> None:
    """The call that meets it succeeds, and so do the next."""
    async with opened(dsn, size=1) as database:
        await _lose_prepared_statements(dsn, database)
        assert await database.fetch(ADD, (ALICE, "100 % %s")) == [("100 % %s",)]
        assert await database.fetch(COUNT) == [(1,)]
        assert await database.fetch(PREPARED) == [(0,)]


async def test_a_statement_that_another_client_prepared_is_done_without(dsn: str) -> None:
    """The other way about: the pooler's connection has the name already."""
    async with opened(dsn, size=1) as database:
        taken = "CREATE FUNCTION take() RETURNS int LANGUAGE plpgsql AS $$BEGIN {} RETURN 1; END$$"
        sql(dsn, taken.format("EXECUTE 'PREPARE test_count AS SELECT -1';"))
        await database.fetch(Statement("test_take", (), "SELECT take()"))
        assert await database.fetch(COUNT) == [(0,)]


async def test_close_lets_work_end(dsn: str) -> None:
    """What runs and what waits for a connection has its answer; what comes later is refused; the next pool works."""
    database = Database(dsn, size=2, deadline_s=5)
    await database.connect()
    calls = [asyncio.ensure_future(database.fetch(SLEEP, (0.5,))) for _ in range(6)]
    await until(lambda: database.free == 0)
    closing_ = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    await unavailable(asyncio.ensure_future(database.fetch(ONE)))
    await closing_
    assert await asyncio.gather(*calls) == [[("slept",)]] * 6
    await database.close()
    async with opened(dsn) as another:
        await whole(another)


async def test_close_while_postgres_is_away(dsn: str) -> None:
    """Callers that still try are told so, and no connection is left behind when it comes back."""
    async with proxied(dsn) as proxy, opened(proxy.dsn) as database:
        await _away(proxy, database)
        calls = [asyncio.ensure_future(database.fetch(ONE)) for _ in range(2 * SIZE)]
        await until(lambda: database.waiting == 2 * SIZE)
        await database.close()
        for call in calls:
            await asyncio.wait_for(unavailable(call), 4)  # less than their deadline


async def test_close_while_postgres_is_frozen(dsn: str) -> None:
    """Connections that were being opened are not left behind, and nobody waits beyond the deadline."""
    async with proxied(dsn) as proxy, opened(proxy.dsn, deadline_s=0.3) as database:
        proxy.drop()
        proxy.freeze()
        calls = [asyncio.ensure_future(database.fetch(ONE)) for _ in range(2 * SIZE)]
        await until(lambda: database.waiting > 0)
        await database.close()
        for call in calls:
            await unavailable(call)
        proxy.thaw()
        connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bountyexpo-realtime'"
        await until(lambda: sql(dsn, connected + " AND datname = current_database()") == [(0,)])


async def test_ping_tells_the_time(dsn: str) -> None:
    """A round trip, in seconds."""
    async with opened(dsn) as database:
        assert 0 < await database.ping() < 5


async def test_arrays_hold_what_they_are_given(dsn: str) -> None:
    """Quotes, backslashes, braces, commas, the word NULL and no value at all."""
    words = Statement("test_words", ("text[]",), "SELECT w FROM unnest($1) WITH ORDINALITY AS u (w, n) ORDER BY n")
    values = ['"', "\\", '\\"', "{a,b}", "NULL", "", " ", "%s", "'", "ü\n", None]
    async with opened(dsn, size=1) as database:
        assert [row[0] for row in await database.fetch(words, (array(values),))] == values
