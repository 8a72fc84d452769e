"""(b) Persisted chat between two people.

Each of ``senders`` has one message in flight to a person of their own: the next is sent when the other person has
received the last (and, over REST, the sender the answer). Latency is from the send to the other person's receipt.
"""

import itertools
import json
import re
import socket
import time

from bench.load import frames
from bench.load.dialects import Plain
from bench.load.job import Job, latencies_ms

_PADDING = "x" * 80
_SEQ = re.compile(rb'"seq":(\d+)')


class Pair:
    """A sender, their receiver, and the message between them."""

    def __init__(self, job: Job, number: int, sender: socket.socket, receiver: socket.socket, latencies: list[float]):
        self._speak: Plain = job.speak
        self._over_rest: bool = job.options.get("rest", False)
        self._token: str = job.people["people"][2 * number]["token"]
        # Where each next message goes.
        self.conversations = itertools.cycle([job.people["people"][2 * number]["conversation"]])
        self._name = f"{job.run_id}-{number}"
        self._conversation = job.people["people"][2 * number]["conversation"]
        self._acks: bool = job.options.get("acks", False)
        self._sender, self._receiver = sender, receiver
        self._latencies = latencies
        self._count = 0
        self._marker = b""
        self._tail = b""
        self._answer = b""
        self._is_received = self._is_answered = False
        self._sent_at = 0.0
        job.loop.readers[sender.fileno()] = self._heard_by_sender
        job.loop.readers[receiver.fileno()] = self._heard_by_receiver

    def send(self) -> None:
        """Send the next message."""
        self._count += 1
        key = f"{self._name}-{self._count}"
        text = f"{key}.{_PADDING}"
        self._marker = f"{key}.".encode()
        conversation = next(self.conversations)
        if self._over_rest:
            data = self._speak.send_rest(conversation, self._token, text, key)
        else:
            data = self._speak.send(conversation, text, key)
        self._tail = self._answer = b""
        self._is_received, self._is_answered = False, not self._over_rest
        self._sent_at = time.perf_counter()
        self._sender.send(data)

    def _heard_by_receiver(self, data: bytes) -> None:
        if self._marker in data or self._marker in self._tail + data:
            self._latencies.append(time.perf_counter() - self._sent_at)
            self._is_received = True
            if self._acks:
                self._ack(self._tail + data)
            self._next()
        else:
            self._tail = (self._tail + data)[-4096:]

    def _ack(self, heard: bytes) -> None:
        """Say that it has arrived, as the app does."""
        seq = _SEQ.search(heard, heard.index(self._marker))
        if seq is not None:
            frame = {"type": "message.delivered", "conversationId": self._conversation, "seq": int(seq[1])}
            self._receiver.send(frames.text(json.dumps(frame).encode()))

    def _heard_by_sender(self, data: bytes) -> None:
        if self._over_rest:
            self._answer += data
            self._is_answered = frames.is_answered(self._answer)
            self._next()
        elif b'"error"' in data:
            raise ValueError(f"the server refused a message: {json.dumps(data.decode(errors='replace'))}")

    def _next(self) -> None:
        if self._is_received and self._is_answered:
            self.send()


def start(job: Job, senders: int, latencies: list[float]) -> list[Pair]:
    """Open the sockets of ``senders`` pairs."""
    people = job.people["people"][: 2 * senders]
    over_rest = job.options.get("rest", False)
    tokens = [person["token"] for number, person in enumerate(people) if number % 2 or not over_rest]
    opened = job.open_people(tokens)
    job.loop.drain(0.3)
    return [
        Pair(
            job,
            number,
            job.loop.connect(job.port) if over_rest else opened[people[2 * number]["token"]],
            opened[people[2 * number + 1]["token"]],
            latencies,
        )
        for number in range(senders)
    ]


def run(job: Job) -> dict[str, float]:
    """Options: ``senders``, ``rest``, ``warm_s``, ``seconds``, ``acks`` (receivers mark what arrives, ours alone)."""
    latencies: list[float] = []
    for pair in start(job, job.options["senders"], latencies):
        pair.send()
    job.loop.run(time.monotonic() + job.options["warm_s"])
    latencies.clear()
    started = time.monotonic()
    meter = job.meter()
    job.loop.run(started + job.options["seconds"])
    elapsed = time.monotonic() - started
    used = meter.read(len(latencies))
    return {"messages_per_s": len(latencies) / elapsed, **latencies_ms(latencies), **used}
