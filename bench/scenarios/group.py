"""(c) A conversation of 100 people, one sender: the next message when all others have received the last.

Deliveries a second counts every receipt; latency is from the send to each receipt.
"""

import time

from bench.load.job import Job, latencies_ms

_PADDING = "x" * 80


class Group:
    """The conversation."""

    def __init__(self, job: Job) -> None:
        group = job.people["group"]
        tokens = group["tokens"][: job.options["people"]]
        opened = job.open_people(tokens)
        job.loop.drain(0.3)
        self._speak = job.speak
        self._conversation: str = group["conversation"]
        self._name = f"{job.run_id}-g"
        self._sender = opened[tokens[0]]
        self._others = len(tokens) - 1
        self._count = self._left = 0
        self._marker = b""
        self._sent_at = 0.0
        self.latencies: list[float] = []
        job.loop.readers[self._sender.fileno()] = lambda _data: None
        for token in tokens[1:]:
            job.loop.readers[opened[token].fileno()] = self._heard

    def send(self) -> None:
        """Send the next message."""
        self._count += 1
        self._left = self._others
        key = f"{self._name}-{self._count}"
        self._marker = f"{key}.".encode()
        data = self._speak.send(self._conversation, f"{key}.{_PADDING}", key)
        self._sent_at = time.perf_counter()
        self._sender.send(data)

    def _heard(self, data: bytes) -> None:
        if self._marker in data:
            self.latencies.append(time.perf_counter() - self._sent_at)
            self._left -= 1
            if not self._left:
                self.send()


def run(job: Job) -> dict[str, float]:
    """Options: ``people``, ``warm_s``, ``seconds``."""
    group = Group(job)
    group.send()
    job.loop.run(time.monotonic() + job.options["warm_s"])
    group.latencies.clear()
    started = time.monotonic()
    meter = job.meter()
    job.loop.run(started + job.options["seconds"])
    elapsed = time.monotonic() - started
    used = meter.read(len(group.latencies))
    return {"deliveries_per_s": len(group.latencies) / elapsed, **latencies_ms(group.latencies), **used}
