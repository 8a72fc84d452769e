"""(i) Ten thousand connections: messages at a fixed rate into rooms of two, and an event to everybody else.

Messages leave when they are due, whether or not earlier ones have arrived, and latency counts from then: a server that
falls behind can't slow its measurement down. Subscribers are read afterwards, as in ``mixed`` and for its reason.
"""

import socket
import time
from contextlib import suppress

from bench.load.dialects import EVENT
from bench.load.job import Job, Publisher, latencies_ms

_PADDING = "x" * 80


class Pairs:
    """People in twos; the first of each writes to the second."""

    def __init__(self, job: Job, count: int) -> None:
        people = job.people["people"][: 2 * count]
        opened = job.open_people([person["token"] for person in people])
        self._job = job
        self._conversations: list[str] = [person["conversation"] for person in people[::2]]
        self._senders = [opened[person["token"]] for person in people[::2]]
        self._due_at: dict[bytes, float] = {}
        self._sent = 0
        self.latencies: list[float] = []
        for sender, receiver in zip(self._senders, people[1::2], strict=True):
            job.loop.readers[sender.fileno()] = self._heard_by_sender
            job.loop.readers[opened[receiver["token"]].fileno()] = self._heard_by_receiver

    @property
    def waiting(self) -> int:
        """Messages that were sent and have not arrived."""
        return len(self._due_at)

    def send(self, due_at: float) -> None:
        """Send the next message, from the next pair."""
        place = self._sent % len(self._senders)
        key = f"{self._job.run_id}-c{self._sent:08}"
        self._sent += 1
        self._due_at[key.encode()] = due_at
        data = self._job.speak.send(self._conversations[place], f"{key}.{_PADDING}", key)
        self._senders[place].send(data)

    def _heard_by_receiver(self, data: bytes) -> None:
        now = time.monotonic()
        for part in data.split(b'"text":"')[1:]:
            due_at = self._due_at.pop(part.partition(b".")[0], None)
            if due_at is not None:
                self.latencies.append(now - due_at)

    @staticmethod
    def _heard_by_sender(data: bytes) -> None:
        if b'"error"' in data:
            raise ValueError(f"the server refused a message: {data.decode(errors='replace')}")


def run(job: Job) -> dict[str, float]:
    """Options: ``subscribers``, ``pairs``, ``rate`` (messages a second), ``every_s`` (an event), ``seconds``."""
    options = job.options
    subscribers = job.open_subscribers(options["subscribers"])
    publisher = Publisher(job)
    pairs = Pairs(job, options["pairs"])
    job.loop.drain(0.5)
    for sock in subscribers:
        job.loop.epoll.unregister(sock.fileno())
        with suppress(BlockingIOError):
            sock.recv(65536)
    _chat(job, pairs, publisher, options["warm_s"])
    pairs.latencies.clear()
    _count_events(subscribers)
    meter = job.meter()
    events = _chat(job, pairs, publisher, options["seconds"])
    used = meter.read(len(pairs.latencies))
    return {
        "connections": len(subscribers) + 2 * options["pairs"],
        "messages_per_s": len(pairs.latencies) / options["seconds"],
        **latencies_ms(pairs.latencies),
        "missing": pairs.waiting,
        "events": events,
        "events_received_part": _count_events(subscribers) / (events * len(subscribers)),
        **used,
    }


def _chat(job: Job, pairs: Pairs, publisher: Publisher, seconds: float) -> int:
    """Let messages and events go for so long, and wait for what is under way; return how many events went out."""
    options = job.options
    started = time.monotonic()
    sent = events = 0
    while (elapsed := time.monotonic() - started) < seconds:
        while sent <= elapsed * options["rate"]:
            pairs.send(started + sent / options["rate"])
            sent += 1
        if elapsed >= events * options["every_s"]:
            publisher.publish()
            events += 1
        job.loop.run(started + sent / options["rate"])
    job.loop.run(time.monotonic() + 2.0, lambda: not pairs.waiting)
    job.loop.run(time.monotonic() + 0.5)
    return events


def _count_events(subscribers: list[socket.socket]) -> int:
    """Read what the subscribers were sent; return how many events that is."""
    received = 0
    for sock in subscribers:
        with suppress(BlockingIOError):
            received += sock.recv(65536).count(EVENT)
    return received
