"""The command: ``python -m bench.soak [--connections N] [--seconds S] [--rate R]``.

Holds many authenticated connections open on one server process while messages go, and says whether any was dropped,
whether any message was lost, and whether memory grew: the mean of the last minute against that of the second.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import closing

import psycopg2

from bench import processes, world
from bench.contestants import OURS
from bench.load.dialects import MESSAGES_READY, Plain
from bench.load.job import latencies_ms
from bench.load.loop import Loop
from bench.load.usage import rss_bytes
from bench.paths import DATA
from bench.runner import Runner, database
from storage.embedded import EmbeddedPostgres
from tests.basics import free_port

_PING, _PONG = b"\x89\x00", b"\x8a\x80\x00\x00\x00\x00"
_NEW, _ACK = b'"message.new"', b'"message.ack"'
_TICK_S = 0.01
# More memory than this at the end than after a minute would be a leak.
_GROWTH = 0.02


class Crowd:
    """The connections, and what has come and gone on them."""

    def __init__(self, port: int, people: list[dict[str, str]]) -> None:
        self.speak = Plain(port)
        self.people = people
        self.loop = Loop()
        self.sockets = [
            self.loop.open(port, [self.speak.messages(person["token"])], MESSAGES_READY, 1)[0] for person in people
        ]
        self.sent_at: dict[int, float] = {}
        self.latencies: list[float] = []
        self.acked = self.delivered = self.sent = 0
        for place, sock in enumerate(self.sockets):
            self.loop.readers[sock.fileno()] = lambda data, place=place: self._read(place, data)

    def say(self) -> None:
        """Send one message, from the first to the second of a pair."""
        place = 2 * (self.sent % (len(self.people) // 2))
        key = f"soak-{self.sent}"
        self.sent += 1
        self.sent_at[place + 1] = time.monotonic()
        self.sockets[place].send(self.speak.send(self.people[place]["conversation"], "x" * 80, key))

    def _read(self, place: int, data: bytes) -> None:
        if _PING in data:
            self.sockets[place].send(_PONG)
        self.acked += data.count(_ACK)
        if _NEW in data:
            self.delivered += data.count(_NEW)
            self.latencies.append(time.monotonic() - self.sent_at[place])


def main() -> int:
    """Run; return 1 if anything was dropped or lost, or memory grew."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=200, help="messages a second")
    options = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    postgres = EmbeddedPostgres(DATA / "postgres")
    try:
        runner = Runner(postgres, world.write(), quick=True, only=set())
        runner.prepare(OURS)
        port = free_port()
        with processes.server("soak", OURS.command, {"PORT": str(port), **runner.environment(OURS)}, port) as pid:
            people = json.loads((DATA / "world.json").read_text())["people"][: options.connections]
            started = time.monotonic()
            crowd = Crowd(port, people)
            print(f"{len(people)} connections open after {time.monotonic() - started:.0f} s", flush=True)
            memory = _hold(crowd, pid, options.seconds, options.rate)
        with closing(psycopg2.connect(postgres.dsn(database(OURS)))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM messages WHERE client_message_id LIKE 'soak-%'")
            stored = cursor.fetchone()
    finally:
        postgres.stop()
    return _report(crowd, memory, stored[0] if stored else 0)


def _hold(crowd: Crowd, pid: int, seconds: float, rate: float) -> list[float]:
    """Let messages go for so long; return the server's memory in MB, second by second. A drop raises ``Broken``."""
    memory: list[float] = []
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        while crowd.sent < elapsed * rate:
            crowd.say()
        crowd.loop.run(time.monotonic() + _TICK_S)
        if elapsed >= len(memory):
            memory.append(rss_bytes(pid) / 1e6)
    crowd.loop.run(time.monotonic() + 2)
    return memory


def _report(crowd: Crowd, memory: list[float], stored: int) -> int:
    second, last = statistics.fmean(memory[60:120] or memory), statistics.fmean(memory[-60:])
    growth = last / second - 1
    times = latencies_ms(crowd.latencies)
    print(f"dropped connections   0 of {len(crowd.sockets)}, over {len(memory)} s")
    print(f"messages              {crowd.sent} sent, {crowd.acked} acked, {crowd.delivered} delivered, {stored} stored")
    quantiles = ", ".join(f"{name[:-3]} {times[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms"))
    print(f"send to receipt, ms   {quantiles}")
    print(f"memory                second minute {second:.1f} MB, last {last:.1f} MB: {growth:+.2%}")
    sound = crowd.sent == crowd.acked == crowd.delivered == stored and growth < _GROWTH
    print("sound" if sound else "NOT SOUND")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
