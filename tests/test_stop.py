"""A server ends when it is told to, whatever comes in at that very moment."""

import asyncio

from tests.harness import SOON_S, Server, until


async def test_an_event_at_the_moment_of_stopping(server: Server) -> None:
    """The relay that is woken and cancelled at once ends: it does not mistake the one for the other and go on."""
    events = server.app.bounty_events
    relay = asyncio.create_task(events.run())
    await until(lambda: len(events._wake._waiters) == 2)  # type: ignore[attr-defined]
    events.wake()
    relay.cancel()
    done, _ = await asyncio.wait([relay], timeout=SOON_S)
    assert done and relay.cancelled()
