"""Protocol pings: one sweep over all connections instead of a timer each."""

import asyncio
import time

from connections.registry import Registry
from protocol.codes import CloseCode
from protocol.outbound import PING_FRAME


class Heartbeat:
    """Pings who has been silent for ``interval_s``, closes with 4408 who stays silent for ``timeout_s`` more.

    Anything that a client sends counts as a sign of life.
    """

    def __init__(self, registry: Registry, *, interval_s: float, timeout_s: float) -> None:
        self._registry = registry
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._pinged: set[str] = set()
        # Closed because they did not answer.
        self.timed_out = 0

    async def run(self) -> None:
        """Sweep until cancelled."""
        pause = min(1.0, self._interval_s / 4, self._timeout_s / 4)
        while True:
            await asyncio.sleep(pause)
            self._sweep(time.monotonic())

    def _sweep(self, now: float) -> None:
        still_silent: set[str] = set()
        for connection in list(self._registry.connections.values()):
            silence = now - connection.last_heard
            if silence < self._interval_s or connection.closing:
                continue
            if connection.id not in self._pinged:
                connection.send_now(PING_FRAME)
            elif silence >= self._interval_s + self._timeout_s:
                self.timed_out += 1
                connection.close(CloseCode.UNRESPONSIVE)
                continue
            still_silent.add(connection.id)
        self._pinged = still_silent
