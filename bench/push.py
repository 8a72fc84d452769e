"""What pushes cost chat: ``python -m bench.push [--rounds N] [--senders N] [--seconds N]``.

The same server, in turn without pushes, with them, and with an Expo that never answers. Everybody has a device and
nobody acks, so that each conversation comes to a push every few seconds, the first of them before what is measured.
Compared are medians, and CPU rather than time: the machine is shared.
"""

import argparse
import dataclasses
import gzip
import json
import os
import secrets
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench import processes, world
from bench.contestants import OURS, Contestant
from bench.load.usage import rss_bytes
from bench.paths import DATA, ROOT
from bench.runner import Runner, database
from storage.embedded import EmbeddedPostgres

_TOKENS = """
    INSERT INTO push_tokens (user_id, token)
    SELECT id, 'ExponentPushToken[' || replace(id::text, '-', '') || ']' FROM profiles
"""
_FIGURES = ("messages_per_s", "p50_ms", "p99_ms", "server_us", "postgres_us", "cpu_us", "grown_mb")


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement; 10 hold two pushes to each")
    options = parser.parse_args()
    os.chdir(ROOT)
    DATA.mkdir(exist_ok=True)
    postgres = EmbeddedPostgres(DATA / "postgres")
    try:
        with _sink(silent=False) as answering, _sink(silent=True) as silent:
            kinds = {"off": _contestant("off", None), "on": _contestant("on", answering)}
            kinds["on, Expo silent"] = _contestant("silent", silent)
            found = _rounds(postgres, kinds, options)
    finally:
        postgres.stop()
    for name, rounds in found.items():
        medians = {figure: statistics.median(one[figure] for one in rounds) for figure in _FIGURES}
        print(f"{name:16}" + "".join(f"  {figure} {value:,.1f}" for figure, value in medians.items()))
    for name in list(found)[1:]:
        print(f"{name} / off" + "".join(f"  {figure} {_ratio(found, name, figure):.3f}" for figure in _FIGURES[:-1]))


def _contestant(name: str, url: str | None) -> Contestant:
    pushes = {
        "EXPO_ACCESS_TOKEN": "bench",
        "EXPO_PUSH_URL": url or "",
        "PUSH": "on" if url else "off",
    }
    return dataclasses.replace(OURS, name=f"push_{name}", environment={**OURS.environment, **pushes})


def _rounds(
    postgres: EmbeddedPostgres, kinds: dict[str, Contestant], options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    runner = Runner(postgres, world.write(), quick=True, only=set())
    for contestant in kinds.values():
        runner.prepare(contestant)
        world.run(postgres.dsn(database(contestant)), _TOKENS, "ANALYZE")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for number in range(options.rounds):
        turns = list(kinds.items())
        for name, contestant in turns[number % len(turns) :] + turns[: number % len(turns)]:
            found[name].append(_turn(runner, postgres, contestant, options))
            print(f"round {number + 1}: {name}: {found[name][-1]['cpu_us']:.0f} µs a message", flush=True)
    return found


def _turn(
    runner: Runner, postgres: EmbeddedPostgres, contestant: Contestant, options: argparse.Namespace
) -> dict[str, float]:
    """Measure one start of the server. Memory is what it grew by in the second half, while pushes go out."""
    port = processes.free_port()
    world.run(postgres.dsn(), "CHECKPOINT")
    job = {"name": "64", "senders": options.senders, "warm_s": 0.5, "seconds": options.seconds}
    with processes.server(
        contestant.name, contestant.command, {"PORT": str(port), **runner.environment(contestant)}, port
    ) as pid:
        runner.job(contestant, "chat", job, port, pid)
        before = rss_bytes(pid)
        figures = runner.job(contestant, "chat", job, port, pid)
        return {
            **figures,
            "cpu_us": figures["server_us"] + figures["postgres_us"],
            "grown_mb": (rss_bytes(pid) - before) / 2**20,
        }


def _ratio(found: dict[str, list[dict[str, float]]], name: str, figure: str) -> float:
    """Return the median, over the rounds, of a figure as a part of the same round's without pushes."""
    return statistics.median(one[figure] / other[figure] for one, other in zip(found[name], found["off"], strict=True))


if __name__ == "__main__":
    main()
