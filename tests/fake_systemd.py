"""What systemd does for a service, with a real listening socket, a real notify socket and a real process."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.harness import until
from tests.test_command import PATIENCE_S, ROOT, environment

# The descriptor has to be 3, and LISTEN_PID the server's own id: this sees to both and is then replaced by the server.
HAND_IN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "server.py"])
"""
WATCHDOG_S = 3.0


class FakeSystemd:
    """One service with a socket unit. The socket lives as long as this object, whatever the server does.

    ``told`` is what the server has said, a dict a datagram, of all its lives; ``ready_at`` is when each of them was
    ready, in monotonic seconds.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self.listening.getsockname()[1]
        self.told: list[dict[str, str]] = []
        self.ready_at: list[float] = []
        self.log = directory / "server.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        # An abstract address, as systemd's may be.
        self._address = f"bountyexpo-test-{uuid.uuid4().hex}"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(f"\0{self._address}")
        self._notify.setblocking(False)
        asyncio.get_running_loop().add_reader(self._notify, self._hear)

    async def start(self) -> None:
        """Start the server; return when it has said that it is ready."""
        ready = self.count("READY")
        told_by_systemd = {
            "LISTEN_FDS": "1",
            "NOTIFY_SOCKET": f"@{self._address}",
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", HAND_IN, str(self.listening.fileno())],
                cwd=ROOT,
                env=environment(**self._settings) | told_by_systemd,
                pass_fds=[self.listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await until(lambda: self.count("READY") > ready or self._process.poll() is not None, PATIENCE_S)
        assert self._process.poll() is None, self.log.read_text()
        self.ready_at.append(time.monotonic())

    async def reload(self) -> None:
        """Send SIGHUP; return when the server has said that it is done."""
        ready = self.count("READY")
        self._signal(signal.SIGHUP)
        await until(lambda: self.count("READY") > ready, PATIENCE_S)

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self._signal(signal.SIGTERM)
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)

    async def restart(self) -> None:
        """Stop, start."""
        assert await self.stop() == 0, self.log.read_text()
        await self.start()

    def count(self, name: str) -> int:
        """Return how often the server has said this."""
        return sum(name in datagram for datagram in self.told)

    def close(self) -> None:
        """End everything, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        asyncio.get_event_loop().remove_reader(self._notify)
        self._notify.close()
        self.listening.close()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while datagram := self._notify.recv(8192).decode():
                self.told.append(dict(line.split("=", 1) for line in datagram.splitlines()))
