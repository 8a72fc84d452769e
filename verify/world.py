"""Who checks: two people, their conversation and bounty on the server, and the sockets that they open."""

import time
import uuid
from typing import Any

import jwt
from msgspec import Struct

from verify.client import Answer, Rest, Socket, connect


class Person(Struct, frozen=True):
    """Somebody with a token."""

    id: str
    token: str


class World:
    """One server and the people who check it.

    :param secret: the server's HS256 key, to make tokens with; without it some checks can't be tried.
    :param quick: fewer samples.
    """

    def __init__(self, url: str, alice: Person, bob: Person, *, secret: str | None, is_own: bool, quick: bool) -> None:
        self.url = url.rstrip("/")
        self.alice = alice
        self.bob = bob
        self.secret = secret
        self.is_own = is_own
        self.quick = quick
        self.version = "?"
        self.rest = Rest(self.url)
        self._sockets: list[Socket] = []
        self._conversation: str | None = None
        self._bounty: str | None = None

    async def socket(self, path: str, **given: Any) -> Socket:
        """Open a socket; it is closed after the check."""
        socket = await connect("ws" + self.url.removeprefix("http") + path, **given)
        self._sockets.append(socket)
        return socket

    async def messages(self, person: Person, *, replay: bool = False) -> Socket:
        """Open somebody's messaging socket, and wait for its greeting."""
        headers = {"Authorization": f"Bearer {person.token}"}
        socket = await self.socket(f"/messages/subscribe{'' if replay else '?replay=0'}", headers=headers)
        await socket.get("connected")
        return socket

    async def events(self, query: str = "", person: Person | None = None) -> Socket:
        """Open the event stream, and wait for its greeting."""
        headers = {"Authorization": f"Bearer {person.token}"} if person else None
        socket = await self.socket(f"/events/subscribe{query}", headers=headers)
        await socket.get("connection")
        return socket

    async def call(
        self, method: str, path: str, body: Any = None, person: Person | None = None, **given: Any
    ) -> Answer:
        """Make a REST call, as somebody."""
        return await self.rest.call(method, path, body, token=person.token if person else None, **given)

    async def conversation(self) -> str:
        """Return the conversation of the two."""
        if self._conversation is None:
            for person in (self.alice, self.bob):  # a first call makes a profile
                await self.call("GET", "/api/conversations", person=person)
            body = {"participantIds": [self.bob.id]}
            answer = await self.call("POST", "/api/conversations", body, self.alice)
            self._conversation = _of(answer, "conversation")["id"]
        return self._conversation

    async def bounty(self) -> str:
        """Return a bounty of Alice's, made for this."""
        if self._bounty is None:
            answer = await self.call("POST", "/api/bounties", {"title": "A verification's, archived by it"}, self.alice)
            self._bounty = _of(answer, "bounty")["id"]
        return self._bounty

    async def set_status(self, status: str) -> str:
        """Change the bounty's status; return the bounty."""
        bounty = await self.bounty()
        _of(await self.call("POST", f"/api/bounties/{bounty}/status", {"status": status}, self.alice), "bounty")
        return bounty

    def person(self, **claims: Any) -> Person | None:
        """Return somebody new; None without the server's key."""
        return new_person(self.secret, **claims) if self.secret else None

    def close_sockets(self) -> None:
        """Close what a check has opened."""
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()

    async def leave(self) -> None:
        """Put away what was made on the server, as far as REST lets us."""
        if self._bounty is not None:
            await self.set_status("archived")
        if self._conversation is not None:
            for person in (self.alice, self.bob):
                await self.call("DELETE", f"/api/conversations/{self._conversation}", person=person)
        self.rest.close()


def new_person(secret: str, **claims: Any) -> Person:
    """Return somebody new with a token as Supabase makes them (HS256); ``claims`` go over the usual ones."""
    user_id, now = str(uuid.uuid4()), int(time.time())
    usual = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600}
    return Person(user_id, jwt.encode(usual | claims, secret, algorithm="HS256"))


def person_of(token: str) -> Person:
    """Return whose token it is, as the token says; raise ``ValueError`` for what is no token."""
    try:
        return Person(str(jwt.decode(token, options={"verify_signature": False})["sub"]), token)
    except (jwt.PyJWTError, KeyError) as error:
        raise ValueError("it is no access token") from error


def _of(answer: Answer, name: str) -> Any:
    if answer.status not in (200, 201):
        raise RuntimeError(f"{answer.status} {answer.text[:200]}")
    return answer.body[name]
