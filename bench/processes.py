"""Child processes that are always ended, by their id, whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.load.usage import cpu_s
from bench.paths import DATA, ROOT

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_IDLE_TIMEOUT_S = 15.0
_LOOK_S = 0.2


class NotStarted(Exception):
    """A server did not come up; ``str(error)`` is the end of its log."""


@contextlib.contextmanager
def server(name: str, command: list[str], environment: dict[str, str], port: int) -> Iterator[int]:
    """Run a server, its output in a log file, and give its process id once it accepts connections."""
    log = DATA / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_up(process, port, log)
        wait_until_idle(process.pid)
        yield process.pid
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: asked first, then killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_idle(pid: int) -> None:
    """Wait until a process has stopped working on what is over: closed connections, garbage."""
    give_up = time.monotonic() + _IDLE_TIMEOUT_S
    quiet = 0
    while quiet < 3 and time.monotonic() < give_up:
        before = cpu_s(pid)
        time.sleep(_LOOK_S)
        quiet = quiet + 1 if cpu_s(pid) - before < 0.1 * _LOOK_S else 0


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise NotStarted(log.read_text(errors="replace")[-800:] or "it said nothing")
