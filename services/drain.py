"""Sends everybody away before the server goes: told first, spread over time, with nothing cut off."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

import structlog

from connections.connection import Connection
from connections.registry import Registry
from protocol.codes import CloseCode
from protocol.outbound import ServerDraining, encode

log = structlog.get_logger()

# Clients come back over this long for each 10,000 of them: connecting costs a few hundred µs of CPU each.
_SPREAD_S_PER_10K = 30.0
_LEAST_SPREAD_S = 1.0
# Closed in one go; 10,000 take about a second.
_BATCH, _PAUSE_S = 100, 0.01
# What is under way for a batch gets this long to end. What is not done by then was not acked either.
_WORK_S = 1.0
_SETTLE_S = 0.1


async def drain(registry: Registry, *, busy: Callable[[], bool], away_s: float) -> None:
    """Send ``server.draining``, let what is under way end, close with 1012; return when everybody has gone.

    The caller bounds the time. A frame that arrives after its connection's close is not acted on, so not acked.

    :param busy: whether a request is being answered; a handshake among them gives one more connection to send away.
    :param away_s: how long nobody will answer; who came back earlier would only wait.
    """
    count = len(registry.connections)
    spread_s = max(_LEAST_SPREAD_S, count / 10_000 * _SPREAD_S_PER_10K)
    log.info("server.draining", connections=count, away_s=round(away_s, 1), spread_s=spread_s)
    # What was accepted just before has its request read in the meantime.
    settled_at = time.monotonic() + _SETTLE_S
    told: set[str] = set()
    while registry.connections or busy() or time.monotonic() < settled_at:
        fresh = [connection for connection in registry.connections.values() if connection.id not in told]
        told.update(connection.id for connection in fresh)
        await _send_away(fresh, away_s, spread_s)
        await asyncio.sleep(_PAUSE_S)


async def _send_away(connections: list[Connection], away_s: float, spread_s: float) -> None:
    for connection in connections:
        wait_s = away_s + random.uniform(0, spread_s)  # noqa: S311  # spreads load, guards nothing
        connection.send_now(encode(ServerDraining(reconnect_after_ms=int(wait_s * 1000))))
    for start in range(0, len(connections), _BATCH):
        await _dismiss(connections[start : start + _BATCH])
        await asyncio.sleep(_PAUSE_S)


async def _dismiss(batch: list[Connection]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WORK_S):
            while busy := [connection.work for connection in batch if connection.work is not None]:
                await asyncio.wait(busy)
                await asyncio.sleep(0)  # what waited behind begins
    for connection in batch:
        connection.close(CloseCode.RESTARTING)
