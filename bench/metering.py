"""The command: ``python -m bench.metering [--connections N]``: what it costs that the server is measured.

How long a scrape of ``/metrics`` takes with so many connections open, and what counting adds to a message's way: the
added operations timed by themselves, as for a batch of one, the dearest case, beside the CPU that the server uses for
a message. Two servers, one without counting, beside each other would tell nothing: such runs differ by
more than the counting costs.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
import timeit
import urllib.request
from typing import Any

from bench import processes, world
from bench.contestants import OURS
from bench.load.usage import cpu_s
from bench.paths import DATA
from bench.runner import Runner
from bench.soak import Crowd
from connections.traffic import Traffic
from measures import LATENCY_S, SIZES, Histogram
from protocol.inbound import MessageSend
from storage.embedded import EmbeddedPostgres
from tests.basics import free_port

_SCRAPES = 30
_MESSAGES, _PEOPLE = 4000, 64
_ROUNDS, _REPEATS = 7, 20_000


class _Counted:
    """Has the counters that one message passes."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.latency, self.commit = Histogram(LATENCY_S), Histogram(LATENCY_S)
        self.fetch, self.batches = Histogram(LATENCY_S), Histogram(SIZES)
        self.taken_in_at = 0.0
        self.deliveries = self.recipients = self.acks = 0

    def message(self) -> None:
        """Do what was added to a message's way: frame in, batch of one, ack, one other person's socket."""
        self.taken_in_at = 0.002
        self.traffic.received[MessageSend] += 1
        started_at = time.monotonic()
        self.fetch.observe(time.monotonic() - started_at)
        self.batches.observe(1)
        self.commit.observe(time.monotonic() - started_at)
        self.acks += 1
        self.traffic.sent += 1
        self.traffic.sent += 1
        self.deliveries += 1
        self.recipients += 2 - 1
        self.latency.observe(time.monotonic() - self.taken_in_at)


async def _called() -> None:
    pass


def _added_us() -> float:
    """Return the microseconds that counting adds to a message, the best of some rounds: one more await among it."""
    counted = _Counted()
    counting = min(timeit.repeat(counted.message, repeat=_ROUNDS, number=_REPEATS)) / _REPEATS

    async def awaiting() -> float:
        started = time.perf_counter()
        for _ in range(_REPEATS):
            await _called()
        return (time.perf_counter() - started) / _REPEATS

    return (counting + min(asyncio.run(awaiting()) for _ in range(_ROUNDS))) * 1e6


def _scrapes_ms(port: int, pid: int) -> tuple[list[float], float]:
    """Return how long each scrape took, and the server's CPU milliseconds for one."""
    times, before = [], cpu_s(pid)
    for _ in range(_SCRAPES):
        started = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            answer.read()
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times), (cpu_s(pid) - before) / _SCRAPES * 1000


def _message_us(crowd: Crowd, pid: int) -> float:
    """Return the server's CPU microseconds a message, with one in flight for each pair of people."""
    before = cpu_s(pid)
    while crowd.acked < _MESSAGES:
        for _ in range(_PEOPLE // 2):
            crowd.say()
        while crowd.delivered < crowd.sent or crowd.acked < crowd.sent:
            crowd.loop.run(time.monotonic() + 0.0005)
    return (cpu_s(pid) - before) / _MESSAGES * 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.metering", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    postgres = EmbeddedPostgres(DATA / "postgres")
    try:
        runner = Runner(postgres, world.write(), quick=True, only=set())
        runner.prepare(OURS)
        port = free_port()
        environment: dict[str, Any] = {"PORT": str(port), **runner.environment(OURS)}
        with processes.server("metering", OURS.command, environment, port) as pid:
            people = json.loads((DATA / "world.json").read_text())["people"][: options.connections]
            crowd = Crowd(port, people)
            processes.wait_until_idle(pid)
            scrapes, cpu_ms = _scrapes_ms(port, pid)
        with processes.server("metering", OURS.command, environment, port) as pid:
            message_us = _message_us(Crowd(port, crowd.people[:_PEOPLE]), pid)
    finally:
        postgres.stop()
    added_us = min(_added_us(), _added_us())
    print(f"connections           {len(people)}")
    slowest, share = scrapes[-1], added_us / message_us
    print(f"/metrics, ms          median {statistics.median(scrapes):.1f}, slowest of {_SCRAPES} {slowest:.1f}")
    print(f"… server CPU, ms      {cpu_ms:.1f}")
    print(f"a message, server CPU {message_us:.0f} µs, of which counting {added_us:.2f} µs: {share:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
