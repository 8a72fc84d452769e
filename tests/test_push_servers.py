"""Pushes with servers that die, that are several, or whose database is away; and with an Expo that does not answer."""

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.expo import ExpoStandIn, crowd, device, mark, pushing, settled, write
from tests.faults import loop_gaps, proxied
from tests.harness import SECRET, Server, until

Start = Callable[..., Awaitable[Server]]
ROOT = Path(__file__).parent.parent
STARTS_WITHIN_S = 20


class Process(Server):
    """``server.py`` in a process of its own, used as any server of the tests."""

    def __init__(self, dsn: str, log: Path, **settings: Any) -> None:
        self.dsn = dsn
        self._clients = []
        self._http = AsyncHTTPClient(force_instance=True, max_clients=200)
        environment = {"DATABASE_URL": dsn, "SUPABASE_JWT_SECRET": SECRET, "PORT": "0", "PATH": os.environ["PATH"]}
        environment |= {"REST_RATE_PER_MINUTE": "0", "MESSAGE_RATE": "0"}
        environment |= {name.upper(): str(value) for name, value in settings.items()}
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "server.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file
            )

    async def listening(self) -> "Process":
        """Wait until it answers."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), STARTS_WITHIN_S)
        assert b"listening" in line, self._log.read_text()
        self.port = int(line.rsplit(b":", 1)[1])
        return self

    def end(self, number: int) -> None:
        """Send a signal, and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(STARTS_WITHIN_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        with contextlib.suppress(Exception):
            self._http.close()


@pytest.fixture
def run(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Awaitable[Process]]]:
    """Start servers as processes; nothing is left running."""
    processes: list[Process] = []

    def start(**settings: Any) -> Awaitable[Process]:
        processes.append(Process(dsn, tmp_path / "log", **settings))
        return processes[-1].listening()

    yield start
    for process in processes:
        process.end(signal.SIGKILL)


Run = Callable[..., Awaitable[Process]]


def counts(expo: ExpoStandIn) -> collections.Counter[str]:
    """Return how often each device was pushed to."""
    return collections.Counter(message["to"] for message in expo.messages)


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_batch(run: Run, expo: ExpoStandIn) -> None:
    """What Expo had answered is not sent again; what it had not is sent by the next server. Nothing is lost."""
    settings = {name: value for name, value in pushing(expo).items() if name != "push_after_s"}
    first = await run(**settings)
    chat, sender = crowd(first, people=180, devices=1)
    held: list[Any] = []

    async def hold(handler: Any) -> None:
        held.append(handler)
        expo.requests.append(handler.read())
        await asyncio.Event().wait()

    # Of the two requests, one is answered and one never is.
    expo.trouble = [lambda handler: _answer(expo, handler), hold]
    await write(first, sender, chat, "hello")
    await until(lambda: held, 10)
    await until(lambda: first.sql("SELECT count(*) FROM push_tickets")[0][0] > 0)
    answered = {row[0] for row in first.sql("SELECT token FROM push_tickets")}
    assert len(answered) in (80, 100)
    first.end(signal.SIGKILL)
    second = await run(**settings)
    await settled(second)
    sent = counts(expo)
    assert len(sent) == 180, "none is lost"
    assert {token for token, count in sent.items() if count == 1} == answered, "none that was answered comes again"
    assert max(sent.values()) == 2
    assert second.sql("SELECT count(*) FROM push_tickets") == [(180,)]


def _answer(expo: ExpoStandIn, handler: Any) -> None:
    messages = handler.read()
    expo.requests.append(messages)
    handler.write({"data": [expo.ticket(message) for message in messages]})


async def test_killed_between_message_and_push(run: Run, expo: ExpoStandIn) -> None:
    """The outbox is written with the message: what was acked is pushed by the next server."""
    settings = {**pushing(expo), "push_coalesce_s": 2}
    first = await run(**settings)
    alice, bob, chat = await first.pair()
    token = await device(first, bob)
    await write(first, alice, chat, "hello")
    first.end(signal.SIGKILL)
    assert expo.requests == []
    second = await run(**settings)
    await settled(second)
    assert counts(expo) == {token: 1}


async def test_off_is_said_once(run: Run, tmp_path: Path) -> None:
    """At the start."""
    server = await run()
    alice, bob, chat = await server.pair()
    await device(server, bob)
    await write(server, alice, chat, "one", "two")
    server.end(signal.SIGTERM)
    assert (tmp_path / "log").read_text().count("push.off") == 1


async def test_logs_hold_no_token(run: Run, expo: ExpoStandIn, tmp_path: Path) -> None:
    """Neither Expo's access token nor a device's, whatever Expo says of them, nor what was written."""
    server = await run(**pushing(expo), push_receipts_after_s=0.5, log_level="debug")
    alice, bob, chat = await server.pair()
    tokens = [await device(server, bob) for _ in range(3)]
    expo.ticket_errors = {tokens[0]: "DeviceNotRegistered", tokens[1]: f"{tokens[1]} is wrong"}
    expo.receipt_errors = {tokens[2]: "InvalidCredentials"}
    expo.trouble = [lambda handler: handler.set_status(500), lambda handler: handler.write(f'{{"errors": "{tokens}"}}')]
    await write(server, alice, chat, "the cake is under the stairs")
    await settled(server)
    await until(lambda: expo.asked and not server.sql("SELECT 1 FROM push_tickets"))
    health = await server.rest("GET", "/health/detailed")
    server.end(signal.SIGTERM)
    logged = (tmp_path / "log").read_text() + str(health.body)
    assert all(name in logged for name in ("DeviceNotRegistered", "InvalidCredentials", "Unknown", "expo.unavailable"))
    for secret in (*tokens, *(token[18:-1] for token in tokens), pushing(expo)["expo_access_token"], "cake"):
        assert secret not in logged


async def test_two_servers_push_once(start: Start, expo: ExpoStandIn) -> None:
    """Whatever they take at the same time; and both do take."""
    one, two = await start(**pushing(expo)), await start(**pushing(expo))
    scenes = [crowd(one, people=30, devices=2) for _ in range(12)]
    for _ in range(3):
        await asyncio.gather(*(write(one if n % 2 else two, who, chat, "hi") for n, (chat, who) in enumerate(scenes)))
        await settled(one)
    texts = sum(int(message["body"].split()[0]) if message["body"] != "hi" else 1 for message in expo.messages)
    assert texts == 3 * 12 * 60
    assert set(counts(expo).values()) == {3}
    assert one.app.push and two.app.push and one.app.push.sent + two.app.push.sent == 3 * 12 * 60


async def test_who_is_connected_at_the_other_server(start: Start, expo: ExpoStandIn) -> None:
    """Counts as there: is waited for, not pushed to if they receive, and pushed to once if they do not."""
    one, two = [await start(**pushing(expo, push_after_s=2.5)) for _ in range(2)]
    alice, bob, chat = await one.pair()
    token = await device(one, bob)
    socket = await two.messages(bob)
    await until(lambda: one.sql("SELECT 1 FROM push_presence WHERE user_id = %s", bob))
    (message,) = await write(one, alice, chat, "received")
    await mark(two, bob, chat, "delivered", message)
    await settled(one)
    assert expo.requests == []
    began = time.monotonic()
    await write(one, alice, chat, "not received")
    await settled(one)
    assert counts(expo) == {token: 1} and time.monotonic() - began >= 2.5
    await socket.close()
    await until(lambda: not one.sql("SELECT 1 FROM push_presence"))
    began = time.monotonic()
    await write(one, alice, chat, "away")
    await settled(one)
    assert counts(expo) == {token: 2} and time.monotonic() - began < 2.5


async def test_the_dead_keep_nobody_online(start: Start, expo: ExpoStandIn) -> None:
    """The people of a server that was killed are away once it has been silent for the lease."""
    server = await start(**pushing(expo, push_after_s=20))
    alice, bob, chat = await server.pair()
    token = await device(server, bob)
    dead = str(uuid.uuid4())
    server.sql("INSERT INTO push_servers VALUES (%s, now() - interval '11 seconds')", dead)
    server.sql("INSERT INTO push_presence VALUES (%s, %s)", bob, dead)
    await write(server, alice, chat, "hello")
    await settled(server)
    assert counts(expo) == {token: 1}


async def test_a_forgotten_server_says_again_who_is_there(start: Start, expo: ExpoStandIn) -> None:
    """One that was silent for so long that others swept it away."""
    server = await start(**pushing(expo))
    _, bob, _ = await server.pair()
    await server.messages(bob)
    present = "SELECT 1 FROM push_presence WHERE user_id = %s"
    await until(lambda: server.sql(present, bob))
    server.sql("DELETE FROM push_servers")
    await until(lambda: server.sql(present, bob))


@pytest.mark.parametrize("statement", ["push_record", "push_claim", "push_resolve", "push_show", "insert_message"])
async def test_an_answer_lost_with_its_connection(start: Start, dsn: str, expo: ExpoStandIn, statement: str) -> None:
    """Committed, and nobody knows: nothing is pushed twice, nothing is left behind."""
    async with proxied(dsn) as proxy:
        server = Server(proxy.dsn, **pushing(expo))
        server.dsn = dsn
        await server.start()
        push = server.app.push
        assert push is not None
        alice, bob, chat = await server.pair()
        tokens = [await device(server, bob) for _ in range(3)]
        await until(lambda: server.sql("SELECT 1 FROM push_servers"))
        lose = b"EXECUTE " + statement.encode()
        if statement == "push_claim":  # armed while rows wait: the next claim is theirs
            expo.trouble = [lambda handler: handler.set_status(503)]
            await write(server, alice, chat, "hello")
            await until(lambda: len(server.sql("SELECT 1 FROM push_queue WHERE claimed_by IS NULL")) == 3)
            server.sql("UPDATE push_queue SET due_at = now()")
            proxy.lose_reply_to(lose)
        elif statement == "push_resolve":  # likewise, with a row of the outbox
            push._coalesce_s = 60
            await write(server, alice, chat, "hello")
            push._coalesce_s = 0.01
            proxy.lose_reply_to(lose)
        else:
            proxy.lose_reply_to(lose)
            await write(server, alice, chat, "hello")
        await until(lambda: proxy.lost == 1)
        await until(lambda: len(expo.messages) >= 3)
        await settled(server)
        assert counts(expo) == dict.fromkeys(tokens, 1)
        await server.stop()


async def test_the_database_goes_away_while_expo_answers(dsn: str, expo: ExpoStandIn) -> None:
    """The answer is remembered until it can be noted: what Expo answered is not sent again."""
    async with proxied(dsn) as proxy:
        server = Server(proxy.dsn, **pushing(expo, request_timeout_s=2))
        server.dsn = dsn
        await server.start()
        alice, bob, chat = await server.pair()
        token = await device(server, bob)
        expo.answering.clear()
        await write(server, alice, chat, "hello")
        await until(lambda: expo.requests)
        proxy.refuse()
        expo.answering.set()
        await asyncio.sleep(2.5)  # longer than the statement's deadline
        await proxy.open()
        await settled(server)
        assert counts(expo) == {token: 1}
        assert server.sql("SELECT count(*) FROM push_tickets") == [(1,)]
        await server.stop()


async def test_more_devices_than_a_statement_has_time_for(start: Start, expo: ExpoStandIn) -> None:
    """Are taken in smaller parts: the outbox does not stand still, for whoever else is in it."""
    server = await start(**pushing(expo, request_timeout_s=0.5))
    expo.answering.clear()
    for _ in range(60):
        crowd(server, people=100, devices=20)
    server.sql(
        "INSERT INTO push_outbox SELECT id, gen_random_uuid(), 1, 1, now() - interval '1 minute' FROM conversations"
    )
    await until(lambda: not server.sql("SELECT 1 FROM push_outbox"), 20)
    assert server.sql("SELECT count(*) > 100000 FROM push_queue") == [(True,)]


async def test_expo_does_not_answer(start: Start, expo: ExpoStandIn) -> None:
    """Chat goes on as if nothing was, and what the server holds stays within six requests."""
    server = await start(**pushing(expo))
    chat, sender = crowd(server, people=240, devices=5)
    alice, bob, private = await server.pair()
    bobs = await device(server, bob)
    hers, his = await server.messages(alice), await server.messages(bob)

    async def usual_ms() -> float:
        """Return the median time from a send to the other's receipt."""
        took = []
        for _ in range(150):
            began = time.monotonic()
            ack = await hers.say(private, "still there?")
            await his.get("message.new", messageId=ack["messageId"])
            took.append((time.monotonic() - began) * 1000)
        return sorted(took)[75]

    before = await usual_ms()
    await mark(server, bob, private, "delivered", his.seen[-1]["messageId"])
    await settled(server)
    expo.requests.clear()
    expo.answering.clear()
    await write(server, sender, chat, "hello")
    push = server.app.push
    assert push is not None
    await until(lambda: len(expo.requests) == 6)
    async with loop_gaps() as gaps:
        meanwhile = await usual_ms()
    assert meanwhile < 5 * before + 50 and gaps.longest < 5, "waiting for Expo would take half a minute"
    assert len(push._in_hand) == 600 and len(push._sending) == 6
    assert len(expo.requests) == 6, "no seventh request while six are open"
    expo.answering.set()
    await settled(server)
    sent = counts(expo)
    assert 1 <= sent.pop(bobs) <= 3, "hundreds of messages, in as many pushes as there were moments"
    assert len(sent) == 1200 and set(sent.values()) == {1}
