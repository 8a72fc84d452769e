"""What pushes cost chat: ``python -m bench.push [--acks] [--rounds N] [--senders N] [--seconds N]``.

Three servers, each with a PostgreSQL of its own, loaded at the same time: without pushes, with them, and with an Expo
that never answers. What else the machine does troubles all three alike, so their ratios hold where their figures do
not. Everybody has a device. With ``--acks`` receivers mark what arrives, as the app does; without, each conversation
comes to a push every few seconds, the first ones before what is measured. Between rounds everybody has read all.
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import secrets
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

from bench import processes, world
from bench.contestants import OURS
from bench.load.usage import rss_bytes
from bench.paths import DATA, ROOT
from bench.runner import Runner, database
from storage.embedded import EmbeddedPostgres
from tests.basics import free_port

_TOKENS = """
    INSERT INTO push_tokens (user_id, token)
    SELECT id, 'ExponentPushToken[' || replace(id::text, '-', '') || ']' FROM profiles
"""
_READ = """
    UPDATE conversation_participants p SET delivered_seq = c.last_seq, read_seq = c.last_seq
    FROM conversations c WHERE c.id = p.conversation_id AND p.read_seq < c.last_seq
"""
_FIGURES = ("messages_per_s", "p50_ms", "p99_ms", "server_us", "postgres_us", "cpu_us")


class _Sink(BaseHTTPRequestHandler):
    """Takes all that it is sent: a ticket each, or no answer at all."""

    protocol_version = "HTTP/1.1"
    silent = False

    def do_POST(self) -> None:
        """Answer, or wait until the client gives up."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.silent:
            self.rfile.read()
            return
        messages = json.loads(gzip.decompress(data) if self.headers["Content-Encoding"] else data)
        body = json.dumps({"data": [{"status": "ok", "id": secrets.token_hex(16)} for _ in messages]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def _sink(*, silent: bool) -> Iterator[str]:
    kind = type("Sink", (_Sink,), {"silent": silent})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/push"
    server.shutdown()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.push", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="a round; 10 hold two pushes to each receiver")
    parser.add_argument("--acks", action="store_true", help="receivers mark what arrives, so that little is pushed")
    options = parser.parse_args()
    os.chdir(ROOT)
    DATA.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        kinds = {
            "off": _Kind(stack, "off", None),
            "on": _Kind(stack, "on", stack.enter_context(_sink(silent=False))),
            "on, Expo silent": _Kind(stack, "silent", stack.enter_context(_sink(silent=True))),
        }
        _together(kinds, options, 15.0)
        before = {name: rss_bytes(kind.pid) for name, kind in kinds.items()}
        rounds = [_together(kinds, options, options.seconds) for _ in range(options.rounds)]
        grown = {name: (rss_bytes(kind.pid) - before[name]) / 2**20 for name, kind in kinds.items()}
        sent = {name: kind.sent() for name, kind in kinds.items()}
    for name in kinds:
        medians = {figure: statistics.median(one[name][figure] for one in rounds) for figure in _FIGURES}
        print(
            f"{name:16}" + "".join(f"{figure} {value:,.1f}  " for figure, value in medians.items())
            + f"memory {grown[name]:+.1f} MB  answered pushes {sent[name]:,}"
        )  # fmt: skip
    for name in list(kinds)[1:]:
        ratios = {figure: [one[name][figure] / one["off"][figure] for one in rounds] for figure in _FIGURES}
        print(
            f"{name} / off: "
            + "  ".join(
                f"{figure} {statistics.median(each):.3f} ({min(each):.3f}-{max(each):.3f})"
                for figure, each in ratios.items()
            )
        )


class _Kind:
    """One of the servers, running."""

    def __init__(self, stack: contextlib.ExitStack, name: str, url: str | None) -> None:
        pushes = {"EXPO_ACCESS_TOKEN": "bench", "EXPO_PUSH_URL": url or "", "PUSH": "on" if url else "off"}
        self._contestant = dataclasses.replace(OURS, name=f"push_{name}", environment={**OURS.environment, **pushes})
        self._postgres = EmbeddedPostgres(DATA / f"postgres_push_{name}")
        stack.callback(self._postgres.stop)
        self._runner = Runner(self._postgres, world.write(), quick=True, only=set())
        self._runner.prepare(self._contestant)
        self._dsn = self._postgres.dsn(database(self._contestant))
        world.run(self._dsn, _TOKENS, "ANALYZE")
        self._port = free_port()
        environment = {"PORT": str(self._port), **self._runner.environment(self._contestant)}
        command = self._contestant.command
        self.pid = stack.enter_context(processes.server(self._contestant.name, command, environment, self._port))

    def measure(self, senders: int, seconds: float, *, acks: bool) -> dict[str, float]:
        """Return the figures of one round."""
        world.run(self._dsn, _READ)
        job = {"name": "push", "senders": senders, "warm_s": 0.5, "seconds": seconds, "acks": acks}
        figures = self._runner.job(self._contestant, "chat", job, self._port, self.pid)
        return {**figures, "cpu_us": figures["server_us"] + figures["postgres_us"]}

    def sent(self) -> int:
        """Return how many pushes Expo has answered for."""
        with contextlib.closing(psycopg2.connect(self._dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM push_tickets")
            return int((cursor.fetchone() or (0,))[0])


def _together(kinds: dict[str, _Kind], options: argparse.Namespace, seconds: float) -> dict[str, dict[str, float]]:
    with ThreadPoolExecutor(len(kinds)) as pool:
        rounds = {
            name: pool.submit(kind.measure, options.senders, seconds, acks=options.acks) for name, kind in kinds.items()
        }
        return {name: one.result() for name, one in rounds.items()}


if __name__ == "__main__":
    main()
