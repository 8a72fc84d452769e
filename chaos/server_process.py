"""The server as a process of its own, on an embedded PostgreSQL of its own; and that PostgreSQL's processes.

Everything is ended by process id, and only what this run started.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import jwt
import psutil

from tests.basics import free_port

_ROOT = Path(__file__).resolve().parent.parent
# A start imports, recovers PostgreSQL and migrates; other work may keep the machine busy meanwhile.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0

# Short deadlines and small caps bring the paths for what went wrong, and for what does not fit, into a short run.
_SETTINGS = {
    "HOST": "127.0.0.1",
    "DATABASE_URL": "",
    "SUPABASE_URL": "",
    "REDIS_URL": "",
    "ENVIRONMENT": "development",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "warning",
    "DATABASE_POOL_SIZE": "4",
    "REQUEST_TIMEOUT_S": "2",
    "DRAIN_TIMEOUT_S": "10",
    "HEARTBEAT_INTERVAL_S": "5",
    "HEARTBEAT_TIMEOUT_S": "4",
    "MAX_SEND_QUEUE_BYTES": "65536",
    "REPLAY_MAX_PER_CONVERSATION": "8",
    "REPLAY_MAX": "24",
    "MESSAGE_RATE": "30",
    "MESSAGE_BURST": "60",
    "REST_RATE_PER_MINUTE": "1200",
    "CONNECT_RATE_PER_10S": "0",
}


class ServerProcess:
    """One server, which may be killed and started again on the same port and data.

    :param fault_in: a deliberate fault of ``chaos.faulty_server``; None for the server as it is.
    """

    def __init__(self, fault_in: str | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bountyexpo-chaos-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self.secret = secrets.token_urlsafe(48)
        self.log = self.directory / "server.log"
        # Whether a fault (or the end) asked for what is happening to the process.
        self.expected_down = False
        self._fault_in = fault_in
        self._process: asyncio.subprocess.Process | None = None
        self._draining_output: asyncio.Task[None] | None = None
        self._postmasters: set[tuple[int, float]] = set()
        (self.directory / "jwt-secret").write_text(self.secret)

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return self._process.pid if self.running and self._process else 0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> float:
        """Start and wait until it listens; return the seconds that took. Raises ``RuntimeError`` if it does not."""
        began = time.monotonic()
        environment = {**os.environ, **_SETTINGS, "PORT": str(self.port), "DATA_DIR": str(self.directory)}
        environment["SUPABASE_JWT_SECRET"] = self.secret
        command = ["server.py"] if self._fault_in is None else ["-m", "chaos.faulty_server", self._fault_in]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=_ROOT, env=environment, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        (self.directory / "server.pid").write_text(str(self._process.pid))
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while b"listening" not in (line := await self._process.stdout.readline()):
                    if not line:
                        raise RuntimeError(f"the server ended at its start:\n{self.log_tail()}")
        except TimeoutError:
            raise RuntimeError(f"the server did not listen in time:\n{self.log_tail()}") from None
        self._draining_output = asyncio.create_task(_read_all(self._process.stdout))
        self.expected_down = False
        self.postmaster()
        return time.monotonic() - began

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; wait for the end and return the exit status. Killed where it takes too long."""
        return await self._end(signal.SIGTERM)

    def postmaster(self) -> psutil.Process | None:
        """Return PostgreSQL's first process, if it runs."""
        try:
            lines = (self.directory / "postgres" / "postmaster.pid").read_text().splitlines()
            process = psutil.Process(int(lines[0]))
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        self._postmasters.add((process.pid, process.create_time()))
        return process

    def dsn(self) -> str:
        """Return PostgreSQL's address. Raises ``OSError`` while it is away."""
        lines = (self.directory / "postgres" / "postmaster.pid").read_text().splitlines()
        if len(lines) < 5:
            raise OSError("PostgreSQL is starting")
        return f"postgresql://postgres@/postgres?host={quote(lines[4].strip(), safe='/')}"

    def token(self, user_id: str) -> str:
        """Return a token of a user, as Supabase makes them."""
        now = int(time.time())
        claims = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 7200}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def clean_up(self) -> None:
        """End all that this run started, whatever state it is in. The log stays."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                await self._end(signal.SIGTERM, timeout=10.0)
        self.postmaster()
        for pid, created in self._postmasters:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == created:
                    family = [process, *process.children(recursive=True)]
                    for member in family:
                        with contextlib.suppress(psutil.Error):
                            member.resume()
                            member.kill()
                    psutil.wait_procs(family, timeout=5)

    async def _end(self, number: int, timeout: float = STOP_TIMEOUT_S) -> int:
        process = self._process
        assert process is not None
        self.expected_down = True
        if process.returncode is None:
            process.send_signal(number)
        try:
            status = await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            process.kill()
            status = await process.wait()
        if self._draining_output is not None:
            self._draining_output.cancel()
        return status


async def _read_all(stream: asyncio.StreamReader) -> None:
    """Read on, so that the server never waits for us."""
    while await stream.read(65_536):
        pass
