"""A stand-in for Expo's push service: checks requests as strictly as Expo does, and answers as it does, wrongly too.

What is checked is what Expo's documentation says of requests; anything else is refused with the codes that Expo has.
"""

import asyncio
import contextlib
import gzip
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from tests.harness import Server, until

ACCESS_TOKEN = "an-access-token-of-expo"
_TOKEN = re.compile(r"Expo(nent)?PushToken\[[^\]\s]+\]")
_STRING, _OBJECT = (str,), (dict,)
_FIELDS: dict[str, tuple[type, ...]] = {
    "to": _STRING, "title": _STRING, "body": _STRING, "subtitle": _STRING, "sound": _STRING, "priority": _STRING,
    "channelId": _STRING, "categoryId": _STRING, "data": _OBJECT, "badge": (int,), "ttl": (int,),
    "expiration": (int,), "_contentAvailable": (bool,), "mutableContent": (bool,),
}  # fmt: skip


class ExpoStandIn:
    """What Expo was sent, and how it answers."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.begun_at: list[float] = []
        self.gzipped = 0
        self.asked: list[list[str]] = []
        # Requests that Expo would have refused, and why.
        self.faults: list[str] = []
        # Answers to the next requests to /send instead of the right one: each a function that writes one.
        self.trouble: list[Callable[[web.RequestHandler], Any]] = []
        self.ticket_errors: dict[str, str] = {}  # by push token
        self.receipt_errors: dict[str, str] = {}  # by push token
        self.unready: set[str] = set()  # push tokens without a receipt yet
        self.refused: set[str] = set()  # push tokens for which the whole request gets 400
        self.refused_tickets: set[str] = set()  # likewise, of requests for receipts
        self.token_of: dict[str, str] = {}  # by ticket
        # While not set, requests are taken and not answered.
        self.answering = asyncio.Event()
        self.answering.set()
        self._numbers = itertools.count(1)
        listening, self.port = bind_unused_port()
        routes = [(f"/push/{name}", handler, {"expo": self}) for name, handler in _HANDLERS.items()]
        self._server = HTTPServer(web.Application(routes, log_function=lambda _: None), decompress_request=False)
        self._server.add_sockets([listening])

    @property
    def url(self) -> str:
        """For EXPO_PUSH_URL."""
        return f"http://127.0.0.1:{self.port}/push"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that was sent and taken, silent ones left out."""
        return [message for message in itertools.chain(*self.requests) if "title" in message]

    @property
    def silent(self) -> list[dict[str, Any]]:
        """The badge updates."""
        return [message for message in itertools.chain(*self.requests) if "title" not in message]

    def to(self, token: str) -> list[dict[str, Any]]:
        """Return the messages to one device."""
        return [message for message in self.messages if message["to"] == token]

    def ticket(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer to one message."""
        error = self.ticket_errors.get(message["to"])
        if error:
            text = f'"{message["to"]}" is not a registered push notification recipient'
            return {"status": "error", "message": text, "details": {"error": error, "expoPushToken": message["to"]}}
        ticket = f"ticket-{next(self._numbers)}"
        self.token_of[ticket] = message["to"]
        return {"status": "ok", "id": ticket}

    def receipts(self, ids: list[str]) -> dict[str, Any]:
        """Answer what became of tickets."""
        found = {}
        for ticket in ids:
            token = self.token_of.get(ticket)
            if token is None or token in self.unready:
                continue
            error = self.receipt_errors.get(token)
            found[ticket] = (
                {"status": "error", "message": f"no {token}", "details": {"error": error}}
                if error
                else {"status": "ok"}
            )
        return found

    async def close(self) -> None:
        """End it."""
        self.answering.set()
        self._server.stop()
        await self._server.close_all_connections()


class _Handler(web.RequestHandler):
    def initialize(self, expo: ExpoStandIn) -> None:
        self.expo = expo

    def refuse(self, status: int, code: str, why: str) -> None:
        self.expo.faults.append(f"{code}: {why}")
        self.set_status(status)
        self.write({"errors": [{"code": code, "message": why}]})

    def read(self) -> Any:
        """Return the body, or None after an answer."""
        request = self.request
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return self.refuse(401, "UNAUTHORIZED", "access token")
        if request.headers.get("Content-Type") != "application/json" or "json" not in request.headers.get("Accept", ""):
            return self.refuse(400, "VALIDATION_ERROR", "headers")
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return self.refuse(400, "VALIDATION_ERROR", "Accept-Encoding")
        body = request.body
        if request.headers.get("Content-Encoding") == "gzip":
            self.expo.gzipped += 1
            body = gzip.decompress(body)
        return json.loads(body)


class _Send(_Handler):
    async def post(self) -> None:
        expo = self.expo
        expo.begun_at.append(asyncio.get_running_loop().time())
        messages = self.read()
        if messages is None:
            return
        if expo.trouble:
            await _maybe(expo.trouble.pop(0)(self))
            return
        if len(messages) > 100:
            self.refuse(400, "PUSH_TOO_MANY_NOTIFICATIONS", str(len(messages)))
            return
        wrong = next(filter(None, map(_wrong, messages)), None)
        if wrong:
            self.refuse(400, "VALIDATION_ERROR", wrong)
            return
        if any(message["to"] in expo.refused for message in messages):
            self.set_status(400)
            self.write({"errors": [{"code": "VALIDATION_ERROR", "message": "one of them"}]})
            return
        expo.requests.append(messages)
        await expo.answering.wait()
        self.write({"data": [expo.ticket(message) for message in messages]})


class _Receipts(_Handler):
    async def post(self) -> None:
        body = self.read()
        if body is None:
            return
        ids = body.get("ids")
        if set(body) != {"ids"} or not ids or not all(isinstance(each, str) for each in ids):
            self.refuse(400, "VALIDATION_ERROR", "ids")
        elif len(ids) > 1000:
            self.refuse(400, "PUSH_TOO_MANY_RECEIPTS", str(len(ids)))
        elif self.expo.refused_tickets.intersection(ids):
            self.set_status(400)
            self.write({"errors": [{"code": "VALIDATION_ERROR", "message": "one of them"}]})
        else:
            self.expo.asked.append(ids)
            await self.expo.answering.wait()
            self.write({"data": self.expo.receipts(ids)})


class _Elsewhere(_Handler):
    def get(self) -> None:
        self.refuse(404, "FOLLOWED", "a redirect, with the access token")


_HANDLERS = {"send": _Send, "getReceipts": _Receipts, "elsewhere": _Elsewhere}


def _wrong(message: dict[str, Any]) -> str | None:
    """Return what Expo would not take."""
    for name, value in message.items():
        kinds = _FIELDS.get(name)
        if kinds is None or type(value) not in kinds:
            return f"{name} {value!r}"
    if not _TOKEN.fullmatch(message.get("to", "")):
        return "to"
    if message.get("priority", "default") not in ("default", "normal", "high"):
        return "priority"
    if message.get("sound", "default") != "default" or message.get("badge", 0) < 0 or message.get("ttl", 0) < 0:
        return "sound, badge or ttl"
    return "MessageTooBig" if len(json.dumps(message)) > 4096 else None


async def _maybe(result: Any) -> None:
    if result is not None:
        await result


# The server's side

# As the defaults, a twentieth of their time.
COALESCE_S, AFTER_S = 0.25, 0.5


def pushing(expo: ExpoStandIn, **settings: Any) -> dict[str, Any]:
    """Return the settings of a server with pushes on."""
    return {
        "expo_access_token": ACCESS_TOKEN,
        "expo_push_url": expo.url,
        "push_coalesce_s": COALESCE_S,
        "push_after_s": AFTER_S,
        **settings,
    }


def new_token() -> str:
    """Return an Expo push token that nobody has."""
    return f"ExponentPushToken[{uuid.uuid4().hex[:22]}]"


async def device(server: Server, user: str) -> str:
    """Register a device of a user; return its token."""
    token = new_token()
    answer = await server.rest("POST", "/api/push-tokens", {"token": token}, user=user)
    assert answer.status == 204, answer
    return token


async def write(server: Server, user: str, chat: str, *texts: str) -> list[str]:
    """Send messages over REST; return their ids."""
    ids = []
    for text in texts:
        answer = await server.rest("POST", f"/api/conversations/{chat}/messages", {"text": text}, user=user)
        assert answer.status == 201, answer
        ids.append(answer.body["message"]["id"])
    return ids


async def mark(server: Server, user: str, chat: str, status: str, *ids: str) -> None:
    """Mark messages over REST."""
    body = {"messageIds": ids, "status": status}
    answer = await server.rest("POST", f"/api/conversations/{chat}/messages/status", body, user=user)
    assert answer.status == 200, answer


@contextlib.contextmanager
def in_one_moment(server: Server) -> Iterator[None]:
    """Let all that is written meanwhile be of one moment, for as long as that takes."""
    push = server.app.push
    assert push is not None
    usual_s, push._coalesce_s = push._coalesce_s, 3600
    yield
    push._coalesce_s = usual_s


async def settled(server: Server) -> None:
    """Wait until nothing is on its way any more."""
    await until(lambda: server.sql("SELECT 1 FROM push_outbox UNION ALL SELECT 1 FROM push_queue") == [], 20)


def crowd(server: Server, people: int, devices: int) -> tuple[str, str]:
    """Return a conversation and the one in it who has no device; all others have ``devices`` each."""
    chat = server.sql("INSERT INTO conversations (is_group) VALUES (true) RETURNING id::text")[0][0]
    server.sql(
        """
        WITH made AS (
            INSERT INTO profiles (id, username) SELECT gen_random_uuid(), 'crowd_' || %s || n
            FROM generate_series(0, %s) n RETURNING id, username
        ), taking_part AS (
            INSERT INTO conversation_participants (conversation_id, user_id) SELECT %s, id FROM made
        )
        INSERT INTO push_tokens (user_id, token)
        SELECT id, 'ExponentPushToken[' || replace(gen_random_uuid()::text, '-', '') || ']'
        FROM made, generate_series(1, %s)
        WHERE username <> 'crowd_' || %s || 0
        """,
        chat, people, chat, devices, chat,
    )  # fmt: skip
    return chat, server.sql("SELECT id::text FROM profiles WHERE username = 'crowd_' || %s || 0", chat)[0][0]
