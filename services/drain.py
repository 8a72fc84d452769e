"""Sends everybody away before the server goes: told first, spread over time, with nothing cut off."""

import asyncio
import contextlib
import random

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


async def drain(registry: Registry) -> None:
    """Send ``server.draining``, let what is under way end, close with 1012; return when everybody has gone.

    The caller bounds the time. A frame that arrives after its connection's close is not acted on, so not acked.
    """
    connections = list(registry.connections.values())
    spread_s = max(_LEAST_SPREAD_S, len(connections) / 10_000 * _SPREAD_S_PER_10K)
    log.info("server.draining", connections=len(connections), spread_s=spread_s)
    for connection in connections:
        wait_ms = int(random.uniform(0, spread_s) * 1000)  # noqa: S311  # spreads load, guards nothing
        connection.send_now(encode(ServerDraining(reconnect_after_ms=wait_ms)))
    for start in range(0, len(connections), _BATCH):
        await _dismiss(connections[start : start + _BATCH])
        await asyncio.sleep(_PAUSE_S)
    while registry.connections:
        await asyncio.sleep(_PAUSE_S)


async def _dismiss(batch: list[Connection]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WORK_S):
            while busy := [connection.work for connection in batch if connection.work is not None]:
                await asyncio.wait(busy)
                await asyncio.sleep(0)  # what waited behind begins
    for connection in batch:
        connection.close(CloseCode.RESTARTING)
