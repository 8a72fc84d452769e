"""Error frames and close codes: what is wrong is told, named and echoed, and the socket lives."""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from handlers.socket import BAD_FRAMES
from tests.faults import Proxy
from tests.harness import Client, Server, token
from tests.raw import BINARY, TEXT, RawSocket

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DEEP = "[" * 5000 + "]" * 5000
ID = "11111111-2222-4333-8444-555555555555"


async def answer_to(client: Client, frame: str | bytes | dict[str, Any]) -> dict[str, Any]:
    """Send one frame and return the error that it gets; the socket has to live on."""
    await client.raw(frame if isinstance(frame, str | bytes) else json.dumps(frame))
    error = await client.frame()
    assert error["type"] == "error", error
    assert ISO_TIME.fullmatch(error["timestamp"]) and error["message"]
    await client.send("ping", ts=1)
    await client.get("pong", ts=1)
    return error


@asynccontextmanager
async def away(dsn: str) -> AsyncIterator[tuple[Server, Proxy]]:
    """Give a server whose store can be taken away, by the proxy in front of it."""
    proxy = Proxy(dsn)
    await proxy.open()
    server = Server(proxy.dsn, request_timeout_s=2)
    try:
        await server.start()
        server.dsn = dsn
        yield server, proxy
    finally:
        await server.stop()
        await proxy.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bad frames come, the socket stays."""
    monkeypatch.setattr("handlers.socket.BAD_FRAMES_WITHIN_S", 0)


@pytest.mark.usefixtures("patient")
async def test_what_is_no_json(server: Server) -> None:
    """A text frame that is not JSON is INVALID_JSON, wherever in it that shows, and however deep it is."""
    for client in (await server.events(), await server.messages(await server.person(), replay="0")):
        for frame in (
            "",
            "x",
            '{"type":"ping"',
            '{"type":"ping"}}',
            '{"type":"ping","ts":NaN}',
            '{"type":"ping","ts":Infinity}',
            "{'type':'ping'}",
            f'{{"type":"ping","unknown":{DEEP}}}',
            f'{{"type":"ping","ts":{DEEP}}}',
            f'{{"type":{DEEP}}}',
            '{"type":"ping","ts":[],oops',
            '{"type":"nonsense","x":NaN}',
        ):
            assert (await answer_to(client, frame))["code"] == "INVALID_JSON", frame[:60]


async def test_json_that_is_no_object(server: Server) -> None:
    """JSON that is no object, and an object whose type is none, are INVALID_FRAME."""
    client = await server.events()
    for frame in ("[]", '"ping"', "17", "null", "true", '[{"type":"ping"}]', DEEP):
        error = await answer_to(client, frame)
        assert error["code"] == "INVALID_FRAME" and "`object`" in error["message"], frame
    for frame in ("{}", '{"type":7}', '{"type":null}', '{"Type":"ping"}'):
        error = await answer_to(client, frame)
        assert error["code"] == "INVALID_FRAME" and "type" in error["message"], frame


async def test_binary_frames(server: Server) -> None:
    """A frame is a text frame: a binary one is INVALID_FRAME, whatever it holds."""
    client = await server.messages(await server.person())
    for frame in (b'{"type":"ping"}', b"", b"\xff\x00"):
        error = await answer_to(client, frame)
        assert error["code"] == "INVALID_FRAME" and "binary" in error["message"]


async def test_unknown_types(server: Server) -> None:
    """An unknown type is UNKNOWN_TYPE, quoting it and naming the known ones; each endpoint has its own."""
    events, messages = await server.events(), await server.messages(await server.person())
    for client, kind in ((events, "message.send"), (events, "nonsense"), (messages, "subscribe"), (messages, "Ping")):
        error = await answer_to(client, {"type": kind, "conversationId": ID, "clientMessageId": "k"})
        assert (error["code"], error["requestType"]) == ("UNKNOWN_TYPE", kind)
        assert (error["conversationId"], error["clientMessageId"]) == (ID, "k")
        assert "ping" in error["message"]


async def test_unknown_fields_are_ignored(server: Server) -> None:
    """Unknown fields of a frame are ignored."""
    client = await server.messages(await server.person())
    await client.send("ping", ts="x", extra={"deep": [1, {"type": "join"}]}, **{"": None})
    await client.get("pong", ts="x")


@pytest.mark.usefixtures("patient")
async def test_a_wrong_field_is_named(server: Server) -> None:
    """INVALID_FRAME names the field and what was expected, and says which frame it is about."""
    client = await server.messages(await server.person(), replay="0")
    whole: dict[str, dict[str, Any]] = {
        "join": {"conversationId": ID},
        "typing": {"conversationId": ID, "isTyping": True},
        "message.send": {"conversationId": ID, "text": "hi", "clientMessageId": "k"},
        "message.read": {"conversationId": ID, "seq": 1},
        "sync": {"conversations": {}},
    }
    for kind, field, wrong in (
        ("join", "conversationId", None),
        ("join", "conversationId", "2026-01-02"),
        ("join", "conversationId", "../../etc/passwd"),
        ("join", "conversationId", f"{ID}\n"),
        ("join", "conversationId", f"{{{ID}}}"),
        ("join", "conversationId", ID.replace("-", "")),
        ("join", "conversationId", 7),
        ("typing", "isTyping", "yes"),
        ("typing", "isTyping", 1),
        ("message.send", "text", 7),
        ("message.send", "clientMessageId", ""),
        ("message.send", "clientMessageId", "k" * 65),
        ("message.send", "clientMessageId", "a\x00b"),
        ("message.send", "replyTo", "bob"),
        ("message.send", "mediaUrl", "javascript:alert(1)"),
        ("message.read", "seq", -1),
        ("message.read", "seq", 2**63),
        ("message.read", "seq", 1.5),
        ("message.read", "messageId", "x"),
        ("sync", "conversations", []),
        ("sync", "conversations", {"x": 1}),
        ("sync", "conversations", {ID: "1"}),
    ):
        error = await answer_to(client, {"type": kind, **whole[kind], field: wrong})
        assert (error["code"], error["requestType"]) == ("INVALID_FRAME", kind), (field, wrong)
        assert field in error["message"], error
        if kind == "message.send" and field != "clientMessageId":
            assert (error["conversationId"], error["clientMessageId"]) == (ID, "k")


async def test_a_missing_field_is_named(server: Server) -> None:
    """A missing field is INVALID_FRAME and named."""
    client = await server.messages(await server.person())
    for kind, field in (
        ("join", "conversationId"),
        ("message.send", "conversationId"),
        ("message.delivered", "conversationId"),
        ("sync", "conversations"),
    ):
        error = await answer_to(client, {"type": kind})
        assert error["code"] == "INVALID_FRAME" and f"`{field}`" in error["message"]
    error = await answer_to(client, {"type": "message.read", "conversationId": ID})
    assert "`messageId`" in error["message"] and "`seq`" in error["message"]


async def test_what_is_quoted_back_is_short(server: Server) -> None:
    """A huge id is refused, and neither its text nor anything unprintable comes back."""
    client = await server.messages(await server.person())
    for wrong in ("x" * 60_000, "\x1b[2J", "\u202e"):
        error = await answer_to(client, {"type": "join", "conversationId": wrong})
        assert error["code"] == "INVALID_FRAME" and "conversationId" not in error
        assert len(json.dumps(error)) < 500 and wrong not in error["message"]


async def test_ids_in_capitals(server: Server) -> None:
    """UUIDs in capitals are taken, and come back in their canonical form."""
    alice, bob, chat = await server.pair()
    client, other = await server.messages(alice), await server.messages(bob)
    await client.send("join", conversationId=chat.upper())
    assert (await client.get("joined"))["conversationId"] == chat
    assert (await client.say(chat.upper(), "hi"))["conversationId"] == chat
    assert (await other.get("message.new"))["conversationId"] == chat
    answer = await server.rest("GET", f"/api/conversations/{chat.upper()}/messages", user=alice.upper())
    assert [message["conversationId"] for message in answer.body["messages"]] == [chat]


async def test_a_stranger_s_conversation(server: Server) -> None:
    """NOT_PARTICIPANT is the same for another's conversation and for none, and says what it is about."""
    _, _, chat = await server.pair()
    client = await server.messages(await server.person())
    texts = set()
    for conversation in (chat, str(uuid.uuid4())):
        for frame in (
            {"type": "join", "conversationId": conversation},
            {"type": "message.send", "conversationId": conversation, "text": "hi", "clientMessageId": "k"},
            {"type": "message.read", "conversationId": conversation, "seq": 1},
        ):
            error = await answer_to(client, frame)
            assert (error["code"], error["requestType"]) == ("NOT_PARTICIPANT", frame["type"])
            assert error["conversationId"] == conversation
            texts.add(error["message"])
    assert len(texts) == 1


async def test_too_many_bad_frames(server: Server) -> None:
    """More than 20 bad frames in 10 s close with 4400; 20 do not."""
    client = await server.events()
    for _ in range(BAD_FRAMES):
        await answer_to(client, "x")
    await client.raw("x")
    await client.error("INVALID_JSON")
    assert await client.closed() == 4400


@pytest.mark.usefixtures("patient")
async def test_bad_frames_of_long_ago_are_forgiven(server: Server) -> None:
    """Only the bad frames of the last 10 s count, and mistakes that are no bad frame do not."""
    for client, frame in (
        (await server.events(), "x"),
        (await server.messages(await server.person()), f'{{"type":"join","conversationId":"{ID}"}}'),
    ):
        for _ in range(BAD_FRAMES + 5):
            await answer_to(client, frame)


async def test_a_frame_too_large(start: Callable[..., Any]) -> None:
    """A frame over MAX_FRAME_BYTES closes with 1009, one of just that size does not."""
    server = await start(max_frame_bytes=2000)
    client = await server.events()
    await client.send("ping", ts=1, pad="x" * (2000 - len('{"type": "ping", "ts": 1, "pad": ""}')))
    await client.get("pong")
    await client.raw("x" * 2001)
    assert await client.closed() == 1009


async def test_a_frame_that_only_says_it_is_large(start: Callable[..., Any]) -> None:
    """The header of a frame over MAX_FRAME_BYTES is enough for 1009, as is the sum of its fragments."""
    server = await start(max_frame_bytes=2000)
    for size in (2001, 2**63 - 1):
        async with RawSocket.open(server.port) as raw:
            raw.send(TEXT, says=size)
            assert await raw.closed() == 1009
    async with RawSocket.open(server.port) as raw:
        raw.send(BINARY, b"x" * 1500, final=False)
        raw.send(0, says=501)
        assert await raw.closed() == 1009


async def test_a_fault_of_ours(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault gives INTERNAL with nothing of the inside, is logged with its ids, and the socket lives."""
    alice, _, chat = await server.pair()
    client = await server.messages(alice)

    def fault(*_args: object, **_fields: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(server.app.context.receipts, "mark", fault)
    monkeypatch.setattr(server.app.context.typing, "set", fault)
    connection = next(iter(server.app.registry.connections))
    for kind, fields in (("message.read", {"seq": 1}), ("typing", {"isTyping": True})):
        with capture_logs() as logs:
            error = await answer_to(client, {"type": kind, "conversationId": chat, **fields})
        assert (error["code"], error["requestType"], error["conversationId"]) == ("INTERNAL", kind, chat)
        assert "inside" not in json.dumps(error)
        [line] = [line for line in logs if line["log_level"] == "error"]
        assert (line["connection_id"], line["user_id"], line["frame_type"]) == (connection, alice, kind)
        assert isinstance(line["exc_info"], RuntimeError)


async def test_a_fault_of_ours_over_rest(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is a 500 INTERNAL with nothing of the inside, logged with the request's id and the user's."""

    def fault(*_args: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(server.app.context.stored_conversations, "visible_to", fault)
    alice = await server.person()
    with capture_logs() as logs:
        answer = await server.rest("GET", "/api/conversations", user=alice, headers={"X-Request-Id": "mine"})
    assert (answer.status, answer.body["code"], answer.body["requestId"]) == (500, "INTERNAL", "mine")
    assert "inside" not in json.dumps(answer.body)
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert (line["request_id"], line["user_id"]) == ("mine", alice)


async def test_the_store_is_away(dsn: str) -> None:
    """With Postgres away a frame is STORE_UNAVAILABLE, a call 503, health degraded; all works again by itself."""
    async with away(dsn) as (server, proxy):
        alice, bob, chat = await server.pair()
        client, other = await server.messages(alice), await server.messages(bob)
        await client.get("presence.update", isOnline=True)
        proxy.refuse()
        send = {"type": "message.send", "conversationId": chat, "text": "hi", "clientMessageId": "k"}
        error, health, call = await asyncio.gather(
            answer_to(client, send),
            server.rest("GET", "/health"),
            server.rest("POST", f"/api/conversations/{chat}/messages", {"text": "hi"}, user=alice),
        )
        assert (error["code"], error["requestType"]) == ("STORE_UNAVAILABLE", "message.send")
        assert (error["conversationId"], error["clientMessageId"]) == (chat, "k")
        assert error["retryAfterMs"] > 0
        assert (health.status, health.body["status"], health.body["database"]) == (503, "degraded", "disconnected")
        assert (call.status, call.body["code"]) == (503, "STORE_UNAVAILABLE")
        assert int(call.headers["Retry-After"]) >= 1
        late = await server.socket("/messages/subscribe", token=token(alice))
        await late.error("STORE_UNAVAILABLE")
        assert await late.closed() == 1013
        await proxy.open()
        while (await server.rest("GET", "/health")).status != 200:
            pass
        assert "duplicate" not in await client.say(chat, "hi", "k")
        await other.get("message.new", text="hi")
