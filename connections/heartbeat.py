"""Protocol pings: one sweep over all connections instead of a timer each."""

import asyncio
import math
import time

from connections.registry import Registry
from protocol.codes import CloseCode
from protocol.outbound import PING_FRAME


class Heartbeat:
    """Pings who has been silent for ``interval_s``, closes with 4408 who stays silent for ``timeout_s`` more.

    Anything that a client sends counts as a sign of life. The time to answer is counted in sweeps, not read from a
    clock: while this process is frozen (a paused machine, a stall) no sweep is made and no answer can be read, so a
    pause of ours is not held against a peer whose answer has come meanwhile.
    """

    def __init__(self, registry: Registry, *, interval_s: float, timeout_s: float) -> None:
        self._registry = registry
        self._interval_s = interval_s
        self._pause_s = min(1.0, interval_s / 4, timeout_s / 4)
        self._sweeps_to_answer = math.ceil(timeout_s / self._pause_s)
        # Of each silent one, by connection id: when it was last heard before its ping, and the sweeps since.
        self._pinged: dict[str, tuple[float, int]] = {}
        # Closed because they did not answer.
        self.timed_out = 0

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            self._sweep(time.monotonic())

    def _sweep(self, now: float) -> None:
        still_silent: dict[str, tuple[float, int]] = {}
        for connection in list(self._registry.connections.values()):
            heard = connection.last_heard
            if now - heard < self._interval_s or connection.closing:
                continue
            heard_before, sweeps = self._pinged.get(connection.id, (None, 0))
            if heard_before != heard:
                connection.send_now(PING_FRAME)
                sweeps = 0
            elif sweeps >= self._sweeps_to_answer:
                self.timed_out += 1
                connection.close(CloseCode.UNRESPONSIVE)
                continue
            still_silent[connection.id] = (heard, sweeps + 1)
        self._pinged = still_silent
