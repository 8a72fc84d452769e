"""server.py as a person or a process manager meets it: what it prints, how it ends, what survives."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import psutil
import psycopg2
import pytest
from tornado.websocket import websocket_connect

from storage import seed
from storage.embedded import EmbeddedPostgres
from tests.faults import sql
from tests.harness import SECRET, Client, token, until

ROOT = Path(__file__).parent.parent
# Starting, ending and finding out that it can't: far more than it takes, so that only a hang is a failure.
PATIENCE_S = 25.0


def environment(**settings: object) -> dict[str, str]:
    """Return an environment with these settings, in lower case, and nothing that the tests were started with."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PORT": "0", **{name.upper(): str(value) for name, value in settings.items()}}


def run(*arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run server.py to its end."""
    command = [sys.executable, "server.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def refused(*arguments: str, **settings: object) -> str:
    """Return the sentence that server.py ends with."""
    end = run(*arguments, **settings)
    assert end.returncode == 1, end
    assert "Traceback" not in end.stderr
    assert end.stdout == ""
    return end.stderr


class Serving:
    """A server that runs."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.clients: list[Client] = []
        started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "server.py"],
            cwd=ROOT,
            env=environment(data_dir=data_dir),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        hurry = threading.Timer(PATIENCE_S, self.process.kill)
        hurry.start()
        self.first_line = self.process.stdout.readline()
        hurry.cancel()
        self.took = time.monotonic() - started
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)$", self.first_line.rstrip())
        assert found, self.first_line
        self.port = int(found[1])

    async def messages(self, user_id: str) -> Client:
        """Open a messaging socket."""
        bearer = token(user_id, secret=(self.data_dir / "jwt-secret").read_text())
        self.clients.append(
            Client(
                await websocket_connect(f"ws://127.0.0.1:{self.port}/messages/subscribe?token={bearer}"),
                "/messages/subscribe",
            )
        )
        return self.clients[-1]

    async def end(self, number: int) -> int:
        """Send a signal; return the exit status, after every client has seen its socket end."""
        self.process.send_signal(number)
        for client in self.clients:
            await client.closed(PATIENCE_S)
            client.socket.close()
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def postmaster(data_dir: Path) -> int | None:
    """Return the process id of the embedded PostgreSQL that runs there."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        pid = int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        return pid if psutil.pid_exists(pid) else None
    return None


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data directory that a server has made, and stopped using."""
    directory = Path(tempfile.mkdtemp(prefix="bountyexpo-command-"))
    first = Serving(directory)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(PATIENCE_S) == 0
    first.kill()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def serve(data_dir: Path) -> Iterator[Callable[[], Serving]]:
    """Start servers there; nothing is left running."""
    servers: list[Serving] = []

    def start() -> Serving:
        servers.append(Serving(data_dir))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
    pid = postmaster(data_dir)
    if pid is not None:
        ended = psutil.Process(pid)
        ended.send_signal(signal.SIGINT)  # a fast shutdown
        ended.wait(PATIENCE_S)


async def test_it_starts_and_stops(serve: Callable[[], Serving], data_dir: Path) -> None:
    """A second start is quick and has the first one's data; SIGTERM ends it at once, its PostgreSQL too."""
    server = serve()
    assert server.took < 15
    alice = await server.messages(seed.ALICE)
    assert (await alice.get("connected"))["conversationIds"] == [seed.CONVERSATION]
    assert postmaster(data_dir)
    started = time.monotonic()
    assert await server.end(signal.SIGTERM) == 0
    assert time.monotonic() - started < 15
    assert postmaster(data_dir) is None
    assert (data_dir / "jwt-secret").stat().st_mode & 0o777 == 0o600


async def test_a_second_signal_ends_it_at_once(serve: Callable[[], Serving], data_dir: Path) -> None:
    """A client that does not answer the close holds up a draining server; a second SIGTERM does not wait for it."""
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(
            b"GET /events/subscribe HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        heard = b""
        while b'"connection"' not in heard:
            heard += silent.recv(4096)
        server.process.send_signal(signal.SIGTERM)
        while b'"server.draining"' not in heard:
            heard += silent.recv(4096)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - started < 10, "it waited for the client, for DRAIN_TIMEOUT_S"
    assert postmaster(data_dir) is None


async def test_an_acked_message_survives_kill_9(serve: Callable[[], Serving], data_dir: Path) -> None:
    """And the PostgreSQL that was left running is taken over, and stopped in the end."""
    server = serve()
    left = postmaster(data_dir)
    alice = await server.messages(seed.ALICE)
    ack = await alice.say(seed.CONVERSATION, "survive")
    assert await server.end(signal.SIGKILL) == -signal.SIGKILL
    assert postmaster(data_dir) == left is not None
    again = serve()
    assert postmaster(data_dir) == left
    bob = await again.messages(seed.BOB)
    assert (await bob.get("message.new", messageId=ack["messageId"]))["seq"] == ack["seq"]
    assert await again.end(signal.SIGTERM) == 0
    assert postmaster(data_dir) is None


async def test_a_killed_postgres_is_started_again(serve: Callable[[], Serving], data_dir: Path) -> None:
    """While the server runs; sockets stay open, what was acked is there, and the next message goes through."""
    server = serve()
    alice, bob = await server.messages(seed.ALICE), await server.messages(seed.BOB)
    await bob.get("replay.complete")
    before = await alice.say(seed.CONVERSATION, "before")
    killed = postmaster(data_dir)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    key = uuid.uuid4().hex
    await alice.send("message.send", conversationId=seed.CONVERSATION, text="after", clientMessageId=key)
    while (answer := await alice.get("message.ack", "error", timeout=PATIENCE_S))["type"] == "error":
        assert answer["code"] == "STORE_UNAVAILABLE"
        await alice.send("message.send", conversationId=seed.CONVERSATION, text="after", clientMessageId=key)
    assert answer["seq"] == before["seq"] + 1
    assert [(await bob.get("message.new"))["text"] for _ in range(2)] == ["before", "after"]
    await until(lambda: postmaster(data_dir) not in (None, killed))
    assert await server.end(signal.SIGTERM) == 0
    assert postmaster(data_dir) is None


def test_tokens(data_dir: Path) -> None:
    """For a handle or an id, an administrator's if asked for; a handle that nobody has is said so."""
    secret = (data_dir / "jwt-secret").read_text()
    stranger = str(uuid.uuid4())
    for who, user_id in [("bob", seed.BOB), (stranger.upper(), stranger)]:
        end = run("token", who, data_dir=data_dir)
        claims = jwt.decode(end.stdout.strip(), secret, algorithms=["HS256"], audience="authenticated")
        assert claims["sub"] == user_id and "app_metadata" not in claims
    end = run("token", "--admin", "bob", data_dir=data_dir)
    claims = jwt.decode(end.stdout.strip(), secret, algorithms=["HS256"], audience="authenticated")
    assert (claims["sub"], claims["app_metadata"]) == (seed.BOB, {"role": "admin"})
    assert "'nobody'" in refused("token", "nobody", data_dir=data_dir)
    assert postmaster(data_dir) is None


def test_psql(data_dir: Path) -> None:
    """The embedded database's own, with whatever psql takes: another database than the server's too."""
    query = ("-Atc", "SELECT current_database(), current_user")
    assert run("psql", *query, data_dir=data_dir).stdout == "postgres|postgres\n"
    assert run("psql", "-d", "template1", *query, data_dir=data_dir).stdout == "template1|postgres\n"
    assert postmaster(data_dir) is None


def test_a_port_that_is_taken(data_dir: Path) -> None:
    """One sentence, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(data_dir=data_dir, port=port)
    assert f"Port {port} on 127.0.0.1 can't be had" in said
    assert "Set PORT" in said
    assert postmaster(data_dir) is None


def test_wrong_settings() -> None:
    """All of them at once: which, and what was expected; a secret's value is not repeated."""
    said = refused(port="many", max_connections=0, environment="staging", supabase_jwt_secret="abcdefghij")
    assert "PORT is 'many': expected a whole number" in said
    assert "MAX_CONNECTIONS is '0': expected a whole number >= 1" in said
    assert "ENVIRONMENT is 'staging': expected one of development, production" in said
    assert "SUPABASE_JWT_SECRET is too short" in said
    assert "abcdefghij" not in said


def test_production_wants_a_database_and_a_key() -> None:
    """And no development conveniences."""
    said = refused(environment="production")
    assert "DATABASE_URL is missing" in said
    assert "SUPABASE_JWT_SECRET and SUPABASE_URL are missing" in said
    given = {"environment": "production", "database_url": "postgresql://x", "supabase_jwt_secret": SECRET}
    assert "development command" in refused("token", "alice", **given)


def test_a_data_dir_that_cant_be_written(tmp_path: Path) -> None:
    """Here because a file is in the way."""
    (tmp_path / "file").touch()
    said = refused(data_dir=tmp_path / "file" / "data")
    assert "DATA_DIR" in said
    assert "can't be written" in said


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_database_that_cant_be_reached(command: str) -> None:
    """It is waited for, then libpq's reason is given."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://me:password@127.0.0.1:{closed.getsockname()[1]}/db"
        end = run(command, database_url=url, startup_timeout_s=1)
    said = end.stdout + end.stderr
    assert end.returncode == 1
    assert "can't be reached" in said
    assert "refused" in said
    assert "Traceback" not in said
    assert "password" not in said


def test_migrate_and_check(postgres: EmbeddedPostgres) -> None:
    """On a new database: check names what is missing, production does not start without it, migrate adds it, once."""
    name = f"new_{uuid.uuid4().hex}"
    admin = psycopg2.connect(postgres.dsn())
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name}")
    admin.close()
    production = {
        "environment": "production",
        "database_url": postgres.dsn(name),
        "supabase_jwt_secret": SECRET,
    }
    before = run("check", **production)
    assert (before.returncode, before.stdout.splitlines()[-1]) == (1, "not ready")
    assert "0001-core" in before.stdout
    assert "server.py migrate" in refused(**production)
    applied = run("migrate", **production)
    assert "0001-core" in applied.stdout
    after = run("check", **production)
    assert (after.returncode, after.stdout.splitlines()[-1]) == (0, "ready")
    assert SECRET not in after.stdout + after.stderr
    assert sql(postgres.dsn(name), "SELECT count(*) FROM profiles") == [(0,)], "no demonstration rows"
