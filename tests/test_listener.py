"""The LISTEN connection: tells everybody what was said, and after a break that anything may have been."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

import storage.listener
from storage.listener import Listener
from tests.faults import proxied, sql, terminate_backends
from tests.harness import until


@contextlib.asynccontextmanager
async def listening(dsn: str, *channels: str) -> AsyncIterator[tuple[Listener, dict[str, list[str | None]]]]:
    """Run a listener; give it and what each channel was told."""
    told: dict[str, list[str | None]] = {channel: [] for channel in channels}
    heard: dict[str, Callable[[str | None], None]] = {channel: told[channel].append for channel in channels}
    listener = Listener(dsn, heard, deadline_s=1)
    running = asyncio.create_task(listener.run())
    try:
        yield listener, told
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_notification_reaches_its_channel(dsn: str) -> None:
    """In order, with its payload; and None for everybody first, since any may have been missed."""
    async with listening(dsn, "one", "two") as (listener, told):
        await until(lambda: listener.connected)
        sql(dsn, "NOTIFY one, 'a'; NOTIFY one, 'b'; NOTIFY two; NOTIFY three")
        await until(lambda: told == {"one": [None, "a", "b"], "two": [None, ""]})


@pytest.mark.parametrize("fault", ["backend terminated", "connection dropped", "Postgres away"])
async def test_it_comes_back(dsn: str, fault: str) -> None:
    """And tells everybody to look, with None."""
    async with proxied(dsn) as proxy, listening(proxy.dsn, "one", "two") as (listener, told):
        await until(lambda: listener.connected)
        if fault == "backend terminated":
            terminate_backends(dsn)
        elif fault == "connection dropped":
            proxy.drop()
        else:
            proxy.refuse()
            await until(lambda: not listener.connected)
            await proxy.open()
        await until(lambda: told == {"one": [None, None], "two": [None, None]})
        sql(dsn, "NOTIFY one, 'after'")
        await until(lambda: told["one"][-1] == "after")


async def test_a_silent_death_is_found_by_asking(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word, no reset: an idle LISTEN connection would wait for ever."""
    monkeypatch.setattr(storage.listener, "_PROBE_S", 0.05)
    async with proxied(dsn) as proxy, listening(proxy.dsn, "one") as (listener, told):
        await until(lambda: listener.connected)
        proxy.freeze()
        await until(lambda: not listener.connected)
        proxy.thaw()
        await until(lambda: listener.connected)
        assert told["one"][:2] == [None, None]


async def test_its_end_ends_the_connection(dsn: str) -> None:
    """Nothing stays behind in Postgres."""
    async with listening(dsn, "one") as (listener, _):
        await until(lambda: listener.connected)
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bountyexpo-realtime'"
    await until(lambda: sql(dsn, connected + " AND datname = current_database()") == [(0,)])
