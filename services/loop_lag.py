"""How late the event loop is: what every frame, answer and timer waits besides its own work."""

import asyncio

from measures import LATENCY_S, Histogram

_EVERY_S = 0.25


class LoopLag:
    """Sleeps, and measures by how much it wakes too late."""

    def __init__(self) -> None:
        self.seconds = Histogram(LATENCY_S)
        self.latest_s = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self.latest_s = max(0.0, loop.time() - due)
            self.seconds.observe(self.latest_s)
