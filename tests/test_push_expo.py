"""Expo's protocol: requests, tickets, receipts, its limits, and its bad days."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tornado import web
from tornado.ioloop import IOLoop

from services import expo as protocol
from services.expo import Expo, Message, Refused, Unavailable
from services.push import Push
from tests.expo import ACCESS_TOKEN, ExpoStandIn, crowd, device, new_token, pushing, settled, write
from tests.harness import Server, until

Start = Callable[..., Awaitable[Server]]
Trouble = Callable[[web.RequestHandler], Any]


@pytest.fixture
def client(io_loop: IOLoop, expo: ExpoStandIn) -> Iterator[Expo]:
    """A client of the stand-in, without a server around it."""

    async def make() -> Expo:
        return Expo(expo.url, ACCESS_TOKEN, request_timeout_s=2)

    client = io_loop.run_sync(make)
    yield client
    client.close()


def status(code: int, **headers: str) -> Trouble:
    """Answer with a status alone."""

    def answer(handler: web.RequestHandler) -> None:
        handler.set_status(code)
        for name, value in headers.items():
            handler.set_header(name.replace("_", "-"), value)
        handler.write("<html>no JSON</html>")

    return answer


def garbage(body: str) -> Trouble:
    """Answer 200 with something."""
    return lambda handler: handler.write(body)


def cut_off(handler: web.RequestHandler) -> None:
    """Close the connection without an answer."""
    handler.request.connection.stream.close()  # type: ignore[attr-defined]


def no_gzip(handler: web.RequestHandler) -> None:
    """Answer with what only says that it is gzipped."""
    handler.set_header("Content-Encoding", "gzip")
    handler.write(b"\x1f\x8b" + b"x" * 100)


def redirect(handler: web.RequestHandler) -> None:
    """Send the client elsewhere; there, whoever comes is a fault."""
    handler.redirect(f"http://{handler.request.host}/push/elsewhere")


async def silence(_handler: web.RequestHandler) -> None:
    """Answer too late."""
    await asyncio.sleep(3)


def worker(server: Server) -> Push:
    """Return the server's worker."""
    assert server.app.push is not None
    return server.app.push


def pushes(count: int) -> list[Message]:
    """Return small messages to devices of their own."""
    return [Message(to=new_token(), title="t", body="b") for _ in range(count)]


async def test_hundreds_at_a_time(start: Start, expo: ExpoStandIn) -> None:
    """Up to 100 a request, gzipped; each device once; all that Expo checks is right."""
    server = await start(**pushing(expo))
    chat, sender = crowd(server, people=130, devices=2)
    await write(server, sender, chat, "hello, all of you")
    await settled(server)
    assert [len(request) for request in expo.requests] == [100, 100, 60]
    assert len({message["to"] for message in expo.messages}) == 260
    assert expo.gzipped == 3 and worker(server).sent == 260


async def test_no_more_than_600_a_second(expo: ExpoStandIn, client: Expo) -> None:
    """A hundred each sixth of a second, whatever is asked for at once; servers share the limit."""
    for servers in (1, 2):
        client.servers = servers
        expo.begun_at.clear()
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.send(pushes(100)) for _ in range(8 // servers)))
        for place, at in enumerate(expo.begun_at):
            assert at - began >= place * servers / 6 - 0.01
        client._free_at = 0.0


async def test_a_small_request_is_sent_as_it_is(expo: ExpoStandIn, client: Expo) -> None:
    """gzip would make it larger. A ticket each, in order."""
    first, second = pushes(2)
    expo.ticket_errors[second.to] = "DeviceNotRegistered"
    tickets = await client.send([first, second])
    assert tickets[0].ticket == tickets[0].id and tickets[1].ticket is None
    assert protocol.Outcome("ok", "\x00").ticket is None, "the database would not take it, and it would come again"
    assert expo.gzipped == 0
    assert [ticket.error for ticket in tickets] == [None, "DeviceNotRegistered"] and tickets[0].id


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after(start: Start, expo: ExpoStandIn, as_date: bool) -> None:
    """Is heeded, in both of its forms; then all is sent, once."""
    server = await start(**pushing(expo))
    alice, bob, chat = await server.pair()
    token = await device(server, bob)

    def refuse(handler: web.RequestHandler) -> None:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if as_date else "2"
        status(429, Retry_After=later)(handler)

    expo.trouble = [refuse]
    await write(server, alice, chat, "hello")
    await until(lambda: expo.messages)
    assert expo.begun_at[1] - expo.begun_at[0] >= 1.5
    await settled(server)
    assert [message["to"] for message in expo.messages] == [token] and len(expo.begun_at) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        [status(500), status(502)],
        [garbage("<html>"), garbage("[]")],
        [garbage('{"data": []}'), garbage('{"data": [{"status": 5}]}')],
        [garbage('{"errors": [{"code": "API_ERROR", "message": "x"}]}')],
        [cut_off, cut_off],
        [no_gzip, no_gzip],
        [status(401)],
        [status(404)],
        [redirect],
    ],
)
async def test_what_was_not_answered_is_sent_again(start: Start, expo: ExpoStandIn, trouble: list[Trouble]) -> None:
    """With pauses; what is answered at last is sent once. A redirect is not followed: the token would go with it."""
    server = await start(**pushing(expo))
    alice, bob, chat = await server.pair()
    await device(server, bob)
    expo.trouble = list(trouble)
    await write(server, alice, chat, "hello")
    await until(lambda: expo.messages, 10)
    await settled(server)
    assert len(expo.begun_at) == len(trouble) + 1 and len(expo.messages) == 1
    assert all(later - sooner >= 0.5 for sooner, later in zip(expo.begun_at, expo.begun_at[1:], strict=False))
    assert worker(server).healthy


async def test_the_breaker(expo: ExpoStandIn, client: Expo) -> None:
    """A failure leaves Expo alone, for longer each time; then one request is tried; an answer opens all again."""
    now = [100.0]
    protocol_time, protocol.time = protocol.time, _Clock(now)  # type: ignore[assignment]
    try:
        expo.trouble = [status(503), cut_off, silence, garbage("no")]
        waits = []
        for failures in range(1, 5):
            assert client.healthy is (failures <= 3) and client.room == (6 if failures == 1 else 1)
            with pytest.raises(Unavailable):
                await client.send(pushes(1))
            assert client.room == 0
            waits.append(client.wait.total_seconds())
            now[0] += waits[-1] + 0.001
        assert all(0.5 * 2**place <= wait <= 2**place for place, wait in enumerate(waits))
        assert not client.healthy
        await client.send(pushes(1))
        assert client.healthy and client.room == 6
    finally:
        protocol.time = protocol_time


class _Clock:
    def __init__(self, now: list[float]) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now[0]

    def time(self) -> float:
        return time.time()


async def test_many_failures_at_once_count_once(expo: ExpoStandIn, client: Expo) -> None:
    """Six requests that fail together are one bad moment, not six."""
    expo.trouble = [status(503)] * 6
    results = await asyncio.gather(*(client.send(pushes(1)) for _ in range(6)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert client.healthy and client.wait.total_seconds() <= 1


async def test_an_answer_does_not_end_another_s_wait(expo: ExpoStandIn, client: Expo) -> None:
    """Two at once: one is told to wait, the other is answered after that. What was asked for holds."""
    expo.answering.clear()
    sending = asyncio.create_task(client.send(pushes(1)))
    await until(lambda: expo.requests)
    expo.trouble = [status(429, Retry_After="30")]
    with pytest.raises(Unavailable):
        await client.send(pushes(1))
    expo.answering.set()
    assert len(await sending) == 1
    assert client.wait.total_seconds() > 25 and client.room == 0


async def test_an_outage_of_days(expo: ExpoStandIn, client: Expo) -> None:
    """A minute at most, however often it has failed."""
    client._failures = 5000
    expo.trouble = [cut_off]
    with pytest.raises(Unavailable):
        await client.send(pushes(1))
    assert 25 < client.wait.total_seconds() <= 60


async def test_an_absurd_retry_after(expo: ExpoStandIn, client: Expo) -> None:
    """Is believed up to an hour, and nonsense not at all."""
    for text, most in (("99999999999", 3600), ("-5", 2), ("soon", 4), ("1e9", 8)):
        expo.trouble = [status(503, Retry_After=text)]
        with pytest.raises(Unavailable):
            await client.send(pushes(1))
        assert client.wait.total_seconds() <= most
        client._wait_until = 0.0


async def test_one_that_expo_does_not_take(start: Start, expo: ExpoStandIn) -> None:
    """Of a request that is refused as a whole, the others are sent; the one is counted and given up."""
    server = await start(**pushing(expo))
    chat, sender = crowd(server, people=40, devices=1)
    bad = server.sql("SELECT token FROM push_tokens ORDER BY token LIMIT 1")[0][0]
    expo.refused.add(bad)
    await write(server, sender, chat, "hello")
    await settled(server)
    assert len(expo.messages) == 39 and not expo.to(bad)
    assert worker(server).failed == {"VALIDATION_ERROR": 1} and worker(server).healthy


async def test_refused_whole(expo: ExpoStandIn, client: Expo) -> None:
    """With Expo's code for it."""
    (message,) = pushes(1)
    expo.refused.add(message.to)
    with pytest.raises(Refused) as refusal:
        await client.send([message])
    assert refusal.value.code == "VALIDATION_ERROR"


async def test_a_device_that_is_gone_by_its_ticket(start: Start, expo: ExpoStandIn) -> None:
    """Its token is removed; other errors are counted and remove nothing."""
    server = await start(**pushing(expo))
    alice, bob, chat = await server.pair()
    gone, other, fine = [await device(server, bob) for _ in range(3)]
    expo.ticket_errors = {gone: "DeviceNotRegistered", other: "InvalidCredentials"}
    await write(server, alice, chat, "hello")
    await settled(server)
    await until(lambda: worker(server).tokens_removed == 1)
    assert {row[0] for row in server.sql("SELECT token FROM push_tokens")} == {other, fine}
    assert worker(server).failed == {"DeviceNotRegistered": 1, "InvalidCredentials": 1} and worker(server).sent == 1
    assert [row[0] for row in server.sql("SELECT token FROM push_tickets")] == [fine]


async def test_registered_again_while_expo_answers(start: Start, expo: ExpoStandIn) -> None:
    """What Expo says of a device is about the one that there was when it was asked."""
    server = await start(**pushing(expo))
    alice, bob, chat = await server.pair()
    token = await device(server, bob)
    expo.ticket_errors = {token: "DeviceNotRegistered"}
    expo.answering.clear()
    await write(server, alice, chat, "hello")
    await until(lambda: expo.requests)
    assert (await server.rest("POST", "/api/push-tokens", {"token": token}, user=bob)).status == 204
    expo.answering.set()
    await settled(server)
    assert server.sql("SELECT token FROM push_tokens") == [(token,)] and worker(server).tokens_removed == 0


async def test_receipts(start: Start, expo: ExpoStandIn) -> None:
    """Are asked for after their time, not before, and again where there is none yet; one that says so ends a device."""
    server = await start(**pushing(expo, push_receipts_after_s=2))
    alice, bob, chat = await server.pair()
    gone, late, fine, anew = [await device(server, bob) for _ in range(4)]
    expo.receipt_errors = {gone: "DeviceNotRegistered", anew: "DeviceNotRegistered", fine: "MessageRateExceeded"}
    expo.unready.add(late)
    began = time.monotonic()
    await write(server, alice, chat, "hello")
    await until(lambda: worker(server).sent == 4)
    await until(lambda: server.sql("SELECT 1 FROM push_tickets"))
    # Registered anew after what the receipt is about: it is there again.
    assert (await server.rest("POST", "/api/push-tokens", {"token": anew}, user=bob)).status == 204
    await until(lambda: expo.asked)
    assert time.monotonic() - began >= 2
    assert sorted(expo.asked[0]) == sorted(expo.token_of)
    await until(lambda: worker(server).tokens_removed == 1)
    assert {row[0] for row in server.sql("SELECT token FROM push_tokens")} == {late, fine, anew}
    await until(lambda: len(server.sql("SELECT 1 FROM push_tickets")) == 1)
    expo.unready.clear()
    await until(lambda: not server.sql("SELECT 1 FROM push_tickets"))
    assert [expo.token_of[ticket] for ticket in expo.asked[-1]] == [late]
    assert worker(server).failed == {"DeviceNotRegistered": 2, "MessageRateExceeded": 1}


async def test_registered_again_while_expo_looks_for_the_receipt(start: Start, expo: ExpoStandIn) -> None:
    """A receipt is about the device that there was when it was pushed to, however long Expo takes to give it."""
    server = await start(**pushing(expo, push_receipts_after_s=0.5))
    alice, bob, chat = await server.pair()
    token = await device(server, bob)
    expo.receipt_errors[token] = "DeviceNotRegistered"
    await write(server, alice, chat, "hello")
    await until(lambda: server.sql("SELECT 1 FROM push_tickets"))
    expo.answering.clear()
    assert (await server.rest("POST", "/api/push-tokens", {"token": token}, user=bob)).status == 204
    await until(lambda: expo.asked)
    await asyncio.sleep(1)  # so that it takes longer than the device had taken
    expo.answering.set()
    await until(lambda: not server.sql("SELECT 1 FROM push_tickets"))
    assert server.sql("SELECT token FROM push_tokens") == [(token,)] and worker(server).tokens_removed == 0


async def test_receipts_a_thousand_at_a_time(start: Start, expo: ExpoStandIn) -> None:
    """And those that Expo does not have any more are given up after a day."""
    server = await start(**pushing(expo, push_receipts_after_s=0.5))
    server.sql(
        "INSERT INTO push_tickets (id, token, due_at, created_at) SELECT 'old-' || n, 'ExponentPushToken[x]', now(),"
        " now() - interval '25 hours' FROM generate_series(1, 1200) n"
    )
    await until(lambda: not server.sql("SELECT 1 FROM push_tickets"), 10)
    assert [len(ids) for ids in expo.asked] == [1000, 200]


async def test_a_ticket_that_expo_does_not_take_is_not_asked_about_for_ever(start: Start, expo: ExpoStandIn) -> None:
    """It is given up after a day like any other, and those beside it with it; younger ones wait."""
    server = await start(**pushing(expo, push_receipts_after_s=0.5))
    expo.refused_tickets.add("odd")
    server.sql(
        "INSERT INTO push_tickets (id, token, due_at, created_at) VALUES"
        " ('odd', 'x', now(), now() - interval '25 hours'), ('young', 'x', now(), now())"
    )
    await until(lambda: [row[0] for row in server.sql("SELECT id FROM push_tickets")] != ["odd", "young"])
    assert server.sql("SELECT id FROM push_tickets") in ([("young",)], [])
    expo.refused_tickets.clear()
    expo.receipt_errors, expo.token_of = {"x": "ProviderError"}, {"young": "x"}
    await until(lambda: not server.sql("SELECT 1 FROM push_tickets"))
    assert worker(server).failed == {"VALIDATION_ERROR": 1, "ProviderError": 1}


async def test_receipts_survive_a_bad_day(start: Start, expo: ExpoStandIn) -> None:
    """Tickets are stored: another server asks for them."""
    first = await start(**pushing(expo, push_receipts_after_s=30))
    alice, bob, chat = await first.pair()
    token = await device(first, bob)
    await write(first, alice, chat, "hello")
    await until(lambda: first.sql("SELECT 1 FROM push_tickets"))
    await first.app.stop()
    first.sql("UPDATE push_tickets SET due_at = now()")
    expo.receipt_errors[token] = "DeviceNotRegistered"
    second = await start(**pushing(expo))
    await until(lambda: worker(second).tokens_removed == 1)
    assert second.sql("SELECT 1 FROM push_tokens") == []
