"""What a load process is asked to do, and what every scenario needs of it."""

import json
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load import frames
from bench.load.dialects import DIALECTS, EVENTS_READY, MESSAGES_READY, Plain
from bench.load.loop import Loop
from bench.load.usage import Meter

STATUSES = ("in_progress", "completed", "open")
# What a bounty is set to before: setting it to what it is would be no event.
_BEFORE = "archived"


@dataclass
class Job:
    """One scenario against one server. ``options`` are the scenario's own."""

    scenario: str
    port: int
    server_pid: int
    postgres_pid: int
    dialect: str
    publishes_over_rest: bool
    world: str
    options: dict[str, Any]
    # Keys of messages are unique over all runs.
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    def __post_init__(self) -> None:
        self.loop = Loop()
        self.speak: Plain = DIALECTS[self.dialect](self.port)
        self.people: dict[str, Any] = json.loads(Path(self.world).read_text())

    def meter(self) -> Meter:
        """Start to measure CPU."""
        return Meter(self.server_pid, self.postgres_pid)

    def open_subscribers(self, count: int) -> list[socket.socket]:
        """Open event streams."""
        return self.loop.open(self.port, [self.speak.events()] * count, EVENTS_READY, 200)

    def open_people(self, tokens: list[str], at_once: int = 200) -> dict[str, socket.socket]:
        """Open a messaging socket for each token; return them by token."""
        opened: dict[str, socket.socket] = {}
        for start in range(0, len(tokens), at_once):  # one after another: which socket is whose matters
            for token in tokens[start : start + at_once]:
                opened[token] = self.loop.open(self.port, [self.speak.messages(token)], MESSAGES_READY, 1)[0]
        return opened


class Publisher:
    """Has the server publish an event: over REST where it knows that, else by a frame on a subscriber's socket."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._turn = 0
        if job.publishes_over_rest:
            self.socket = job.loop.connect(job.port)
        else:
            self.socket = job.open_subscribers(1)[0]
        job.loop.epoll.unregister(self.socket.fileno())  # what it hears is not part of the measurement
        if job.publishes_over_rest:
            self._send(_BEFORE)

    def publish(self) -> bytes:
        """Publish; return what the event holds and the one before does not. What came for that is read first."""
        self.drain()
        self._turn += 1
        status = STATUSES[self._turn % len(STATUSES)]
        self._send(status)
        return f'"{status}"'.encode()

    def _send(self, status: str) -> None:
        bounty = self._job.people["bounty"]
        if self._job.publishes_over_rest:
            body = json.dumps({"status": status}).encode()
            target = f"/api/bounties/{bounty['id']}/status"
            self.socket.send(frames.post(self._job.port, target, bounty["token"], body))
        else:
            self.socket.send(self._job.speak.publish(bounty["id"], status))

    def drain(self) -> None:
        """Read what came."""
        try:
            while self.socket.recv(65536):
                pass
        except BlockingIOError:
            pass


def percentile(ordered: list[float], part: float) -> float:
    """Return the ``part`` quantile of ordered values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


def latencies_ms(seconds: list[float]) -> dict[str, float]:
    """Return the usual quantiles, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": percentile(ordered, 0.5) * 1000,
        "p95_ms": percentile(ordered, 0.95) * 1000,
        "p99_ms": percentile(ordered, 0.99) * 1000,
        "max_ms": ordered[-1] * 1000 if ordered else float("nan"),
    }
