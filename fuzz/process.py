"""The server under test, as a process of its own with an embedded Postgres of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from storage.embedded import EmbeddedPostgres
from tests.basics import free_port

SECRET = "a secret that only the fuzzer knows, long enough"
_ROOT = Path(__file__).parent.parent
_START_S, _STOP_S = 60.0, 30.0
_SETTINGS = {
    "SUPABASE_JWT_SECRET": SECRET,
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "warning",
    "MAX_CONNECTIONS_PER_USER": "100",  # one that was just left counts until the server has noticed
    **dict.fromkeys(("MESSAGE_RATE", "TYPING_RATE", "FRAME_RATE", "REST_RATE_PER_MINUTE", "CONNECT_RATE_PER_10S"), "0"),
}
_FOREIGN = ("DATABASE_URL", "SUPABASE_URL", "REDIS_URL", "ENVIRONMENT")


class ServerProcess:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        self._process = process
        self._log = log

    @property
    def rss_mb(self) -> float:
        """Its resident memory."""
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def complaints(self) -> list[str]:
        """Return what its log has of errors and tracebacks."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line[:1500] for line in lines if _is_error(line) or "Traceback" in line]


@contextlib.contextmanager
def running() -> Iterator[ServerProcess]:
    """Start a server, give it once it listens, and end it and its Postgres whatever happens."""
    directory = Path(tempfile.mkdtemp(prefix="bountyexpo-fuzz-"))
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    environment.update(_SETTINGS, PORT=str(port), DATA_DIR=str(directory / "data"))
    log = directory / "server.log"
    process = None
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.server"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        _wait(process, port, log)
        yield ServerProcess(process, port, log)
    finally:
        if process is not None and not _ended(process) and (directory / "data" / "postgres").exists():
            EmbeddedPostgres(directory / "data" / "postgres").stop()
        shutil.rmtree(directory, ignore_errors=True)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Stop it; return whether it ended by itself, and so stopped its Postgres."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_STOP_S) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-800:]}")


def _is_error(line: str) -> bool:
    try:
        return json.loads(line)["level"] in ("error", "critical")
    except (ValueError, KeyError, TypeError):
        return False
