"""The server under systemd: sockets handed in, what it tells, the reload, and restarts that nobody notices."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from systemd import Notifier, passed_sockets
from tests.fake_systemd import HAND_IN, WATCHDOG_S, FakeSystemd
from tests.faults import sql
from tests.harness import SECRET, Client, token, until
from tests.talkers import Caller, Talker, until_they_talk
from tests.test_command import PATIENCE_S, ROOT, environment

OTHER_SECRET = "another secret that only the tests know, as long"
RESTARTS = 10
PAIRS = 6


@pytest.fixture
def service(io_loop: IOLoop, dsn: str, tmp_path: Path) -> Iterator[Callable[..., FakeSystemd]]:
    """Make a service as the unit describes it: production, secrets in files, the rest in ENV_FILE."""
    services: list[FakeSystemd] = []
    (tmp_path / "env").touch()
    for name, secret in (("database-url", dsn), ("supabase-jwt-secret", SECRET)):
        (tmp_path / name).write_text(f"{secret}\n")

    def make(**settings: object) -> FakeSystemd:
        files = {
            "environment": "production",
            "env_file": tmp_path / "env",
            "database_url_file": tmp_path / "database-url",
            "supabase_jwt_secret_file": tmp_path / "supabase-jwt-secret",
        }
        services.append(FakeSystemd(tmp_path, **files, **settings))
        return services[-1]

    yield make
    for one in services:
        one.close()


def people(dsn: str, count: int) -> list[str]:
    """Return the ids of new people."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    for one in ids:
        sql(dsn, f"INSERT INTO profiles (id, username) VALUES ('{one}', '{one}')")
    return ids


def conversation(dsn: str, *user_ids: str) -> str:
    """Return the id of a new conversation of these people."""
    found = str(uuid.uuid4())
    sql(dsn, f"INSERT INTO conversations (id) VALUES ('{found}')")
    for one in user_ids:
        sql(dsn, f"INSERT INTO conversation_participants (conversation_id, user_id) VALUES ('{found}', '{one}')")
    return found


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.gen_test(timeout=140)
async def test_ten_restarts_under_load(service: Callable[..., FakeSystemd], dsn: str) -> None:
    """Nobody is refused, nothing is lost or repeated, everybody is back in time, and systemd hears it in order."""
    unlimited = dict.fromkeys(("message_rate", "frame_rate", "rest_rate_per_minute", "connect_rate_per_10s"), 0)
    unit = service(**unlimited, log_level="warning")
    await unit.start()
    url = f"127.0.0.1:{unit.port}"
    talkers, callers = [], []
    for _ in range(PAIRS):
        alice, bob, carol = people(dsn, 3)
        chat = conversation(dsn, alice, bob, carol)
        callers.append(Caller(url, carol, chat))
        talkers += [Talker(url, alice, chat), Talker(url, bob, chat)]
    tasks = [asyncio.ensure_future(one.talk()) for one in talkers]
    tasks += [asyncio.ensure_future(one.call()) for one in callers[:2]]
    try:
        for number in range(RESTARTS):
            await until_they_talk(talkers, returns=number)
            await unit.restart()
        await until_they_talk(talkers, returns=RESTARTS)
        for one in (*callers, *talkers):
            one.leaving = True
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)
        for one in talkers:
            await one.catch_up()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    late_s = [late for one in talkers for late in one.late_s]
    said = sum(len(one.acked) for one in talkers)
    sent = sum(one.sent for one in callers)
    print(f"\n{said} messages by socket, {sent} by REST, {len(late_s)} returns, the last {max(late_s):.2f} s late")
    assert [failure for one in (*talkers, *callers) for failure in one.failures] == []
    assert all(one.closes == [1012] * RESTARTS for one in talkers)
    # A start that the machine holds up takes longer than clients can be told before. Then a second from its end counts.
    for number, ready_at in enumerate(unit.ready_at[1:]):
        assert all(one.late_s[number] < 1 or one.back_at[number] < ready_at + 1 for one in talkers), number
    assert statistics.median(late_s) < 1
    for one in talkers:
        stored = sql(
            dsn, f"SELECT seq, client_message_id FROM messages WHERE conversation_id = '{one.conversation_id}'"
        )
        assert sorted(seq for seq, _ in stored) == list(range(1, len(stored) + 1))
        keys = [key for _, key in stored if key is not None]
        assert len(keys) == len(set(keys))
        assert set(one.acked) <= set(keys)
        assert len(one.heard) == len(set(one.heard)), "heard twice"
        assert set(one.heard) | set(one.acked.values()) == {seq for seq, _ in stored}, "not heard"
    assert sql(dsn, "SELECT count(*) FROM messages WHERE text = 'by REST'") == [(sent,)]
    assert await unit.stop() == 0
    _check_what_was_told(unit)


def _check_what_was_told(unit: FakeSystemd) -> None:
    lives = [[]]  # type: ignore[var-annotated]
    for datagram in unit.told:
        if "READY" in datagram:
            lives.append([])
        lives[-1].append(datagram)
    assert lives[0] == [], "it said something before it was ready"
    assert len(lives) == RESTARTS + 2
    for said in lives[1:]:
        names = [next(iter(datagram)) for datagram in said]
        assert names.count("READY") == names.count("STOPPING") == 1
        stop = names.index("STOPPING")
        assert set(names[1:stop]) <= {"WATCHDOG"}
        assert "EXTEND_TIMEOUT_USEC" in names[stop:]


async def test_what_it_tells(service: Callable[..., FakeSystemd], dsn: str) -> None:
    """READY once it answers; live numbers with the watchdog's food, well within its time; patience while draining."""
    unit = service()
    await unit.start()
    [alice] = people(dsn, 1)
    client = await _messages(unit, alice)
    fed = unit.count("WATCHDOG")
    await until(lambda: unit.count("WATCHDOG") > fed)
    for _ in range(5):  # the machine may stop this process or that; in one of several times it does not
        fed, started = unit.count("WATCHDOG"), time.monotonic()
        await until(lambda fed=fed: unit.count("WATCHDOG") > fed + 1)
        if time.monotonic() - started < WATCHDOG_S:
            break
    else:
        raise AssertionError("it would have been killed")
    await until(lambda: unit.told[-1]["STATUS"].startswith("1 connections, 1 people online, event 0, database answers"))
    client.socket.close()
    assert await unit.stop() == 0
    assert [datagram for datagram in unit.told if "STOPPING" in datagram] == [{"STOPPING": "1", "STATUS": "Draining"}]


async def test_a_reload(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """Limits, origins, keys and the log level change while sockets stay open; what needs a restart is named."""
    unit = service()
    await unit.start()
    alice, bob = people(dsn, 2)
    chat = conversation(dsn, alice, bob)
    client = await _messages(unit, alice)
    await client.say(chat, "before")
    with pytest.raises(Exception, match="403"):
        await _messages(unit, bob, origin="https://app.example")
    (tmp_path / "supabase-jwt-secret").write_text(OTHER_SECRET)
    (tmp_path / "env").write_text(
        "# changed\nMESSAGE_RATE=0.01\nMESSAGE_BURST=1\nMAX_TEXT_CHARS=10\nALLOWED_ORIGINS='https://app.example'\n"
        "MAX_CONNECTIONS_PER_USER=1\nHEARTBEAT_INTERVAL_S=7\nLOG_LEVEL=warning\n"
    )
    await unit.reload()
    [reloading] = [datagram for datagram in unit.told if "RELOADING" in datagram]
    assert abs(int(reloading["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 30
    await client.send("message.send", conversationId=chat, text="x" * 11, clientMessageId="long")
    await client.error("INVALID_TEXT")
    await client.say(chat, "after")
    await client.send("message.send", conversationId=chat, text="too soon", clientMessageId="soon")
    await client.error("RATE_LIMITED")
    other = await _messages(unit, bob, secret=OTHER_SECRET, origin="https://app.example")
    assert other.seen[0]["heartbeatIntervalMs"] == 25000, "not without a restart"
    for secret, code in ((SECRET, 4401), (OTHER_SECRET, 4429)):
        refused = await _open(unit, bob, secret=secret)
        assert await refused.closed() == code
        refused.socket.close()
    log = unit.log.read_text()
    [line] = [json.loads(line) for line in log.splitlines() if '"settings.reloaded"' in line] or [None]
    assert line is None, "it is no warning"
    assert f'"user_id": "{bob}"' not in log, "nor is a connection"
    (tmp_path / "env").write_text("LOG_LEVEL=info\nHEARTBEAT_INTERVAL_S=7\n")
    await unit.reload()
    [line] = [json.loads(line) for line in unit.log.read_text().splitlines() if '"settings.reloaded"' in line]
    assert line["needs_restart"] == ["heartbeat_interval_s"]
    assert "message_rate" in line["changed"] and "supabase_jwt_secret" not in line["changed"]
    assert SECRET not in unit.log.read_text() and OTHER_SECRET not in unit.log.read_text()
    for open_one in (client, other):
        await open_one.flush()
        open_one.socket.close()


async def test_a_reload_of_wrong_settings(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """It goes on with those that it has, and says what is wrong, without a secret."""
    unit = service()
    await unit.start()
    (tmp_path / "env").write_text("MESSAGE_RATE=many\n")
    (tmp_path / "supabase-jwt-secret").write_text("hunter2")
    await unit.reload()
    [line] = [json.loads(line) for line in unit.log.read_text().splitlines() if '"settings.refused"' in line]
    assert "MESSAGE_RATE is 'many'" in line["reason"] and "SUPABASE_JWT_SECRET is too short" in line["reason"]
    assert "hunter2" not in unit.log.read_text()
    [alice] = people(dsn, 1)
    (await _messages(unit, alice)).socket.close()


async def test_it_asks_for_time_while_postgresql_is_away(service: Callable[..., FakeSystemd], tmp_path: Path) -> None:
    """systemd does not end a start that waits for its database; the server itself does, in the end."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        (tmp_path / "database-url").write_text(f"postgresql://me@127.0.0.1:{nobody.getsockname()[1]}/app")
        unit = service(startup_timeout_s=1)
        with pytest.raises(AssertionError, match="can't be reached"):
            await unit.start()
    assert {"EXTEND_TIMEOUT_USEC": "10000000", "STATUS": "Waiting for PostgreSQL"} in unit.told
    assert not unit.count("READY")


async def test_connections_wait_while_nobody_answers(service: Callable[..., FakeSystemd], dsn: str) -> None:
    """A connection made before the server is even started is answered by it."""
    unit = service()
    [alice] = people(dsn, 1)
    early = asyncio.ensure_future(_messages(unit, alice))
    await unit.start()
    (await early).socket.close()


def test_a_socket_that_takes_no_connections(tmp_path: Path) -> None:
    """Something else than a listening TCP socket is said, and ends the start."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
        end = subprocess.run(
            [sys.executable, "-c", HAND_IN, str(wrong.fileno())],
            cwd=ROOT,
            env=environment(data_dir=tmp_path, listen_fds=1),
            pass_fds=[wrong.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert end.returncode == 1
    assert "descriptor 3 is no listening TCP socket" in end.stderr
    assert "Traceback" not in end.stderr


def test_what_was_meant_for_another_process() -> None:
    """Variables that are a parent's are not believed, and none is left for a child."""
    variables = {
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "1",
        "PATH": "/bin",
    }
    assert passed_sockets(variables) == []
    notifier = Notifier(variables)
    assert notifier.watchdog_s is None
    assert not notifier.listening
    assert variables == {"PATH": "/bin"}
    notifier.ready("to nobody")


async def _open(unit: FakeSystemd, user_id: str, secret: str = SECRET, origin: str | None = None) -> Client:
    headers: dict[str, Any] = {"Origin": origin} if origin else {}
    url = f"ws://127.0.0.1:{unit.port}/messages/subscribe?token={token(user_id, secret=secret)}"
    return Client(await websocket_connect(HTTPRequest(url, headers=headers)), "/messages/subscribe")


async def _messages(unit: FakeSystemd, user_id: str, **options: Any) -> Client:
    client = await _open(unit, user_id, **options)
    await client.get("connected")
    return client
