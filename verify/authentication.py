"""Who gets in, by which way, and who does not."""

import time
import uuid

import jwt

from verify.checks import Area, Failed, Found, Skipped, expect
from verify.client import Socket
from verify.world import World, new_person

area = Area("Authentication")

_NEEDS_KEY = "needs SECRET, to sign such a token"


async def _is_refused(socket: Socket, code: str) -> Found:
    error = await socket.get("error")
    expect(error["code"] == code, f"the error is {error['code']}, not {code}")
    close_code = await socket.closed()
    expect(close_code == 4401, f"closed with {close_code}, not 4401")
    return f"{code}, close 4401"


async def _token_is_refused(world: World, token: str) -> Found:
    return await _is_refused(await world.socket(f"/messages/subscribe?token={token}"), "AUTH_FAILED")


@area.check("Messaging without a token is refused")
async def no_token(world: World) -> Found:
    """AUTH_REQUIRED, then 4401."""
    return await _is_refused(await world.socket("/messages/subscribe"), "AUTH_REQUIRED")


@area.check("What is no token is refused")
async def nonsense(world: World) -> Found:
    """AUTH_FAILED, then 4401."""
    return await _token_is_refused(world, "nonsense")


@area.check("A token signed with another key is refused")
async def forged(world: World) -> Found:
    """The claims are right, the signature is not."""
    return await _token_is_refused(world, new_person("a key that the server does not know, long enough").token)


@area.check("A token without a signature is refused")
async def unsigned(world: World) -> Found:
    """``alg: none``."""
    claims = {"sub": str(uuid.uuid4()), "aud": "authenticated", "exp": int(time.time()) + 600}
    return await _token_is_refused(world, jwt.encode(claims, "", algorithm="none"))


@area.check("An expired token is refused")
async def expired(world: World) -> Found:
    """Whoever's it is."""
    person = world.person(exp=int(time.time()) - 60)
    if person is None:
        raise Skipped(_NEEDS_KEY)
    return await _token_is_refused(world, person.token)


@area.check("A token is taken from the header, the subprotocol and the query")
async def ways(world: World) -> Found:
    """And is not echoed with the subprotocol."""
    token, path = world.alice.token, "/messages/subscribe"
    await (await world.socket(path, headers={"Authorization": f"Bearer {token}"})).get("connected")
    await (await world.socket(f"{path}?token={token}")).get("connected")
    socket = await world.socket(path, subprotocols=["bountyexpo.v1", f"bearer.{token}"])
    await socket.get("connected")
    expect(socket.subprotocol == "bountyexpo.v1", "the server chose another subprotocol")
    return "all three"


@area.check("The socket is its token's user's")
async def identity(world: World) -> Found:
    """``connected`` names the user that the token names."""
    socket = await world.socket("/messages/subscribe", headers={"Authorization": f"Bearer {world.alice.token}"})
    connected = await socket.get("connected")
    expect(connected["userId"] == world.alice.id, "it is somebody else's")
    return "the same user"


@area.check("A token is renewed while the socket stays open")
async def refresh(world: World) -> Found:
    """``auth.refresh``, and that somebody else's token is refused."""
    socket = await world.messages(world.alice)
    await socket.send("auth.refresh", token=world.alice.token)
    await socket.get("auth.refreshed")
    await socket.send("auth.refresh", token=world.bob.token)
    await socket.get("error", code="AUTH_FAILED")
    await socket.send("ping", ts=1)
    await socket.get("pong")
    return "one's own taken, another's refused"


@area.check("REST without a token is refused")
async def rest(world: World) -> Found:
    """401, with the code."""
    answer = await world.call("GET", "/api/conversations")
    expect(answer.status == 401 and answer.body["code"] == "AUTH_REQUIRED", f"{answer.status} {answer.text[:80]}")
    return "401 AUTH_REQUIRED"


@area.check("A conversation of others looks like one that does not exist")
async def strangers(world: World) -> Found:
    """The same answer for both, on the socket and over REST."""
    stranger = world.person()
    if stranger is None:
        raise Skipped(f"{_NEEDS_KEY} for a third person")
    conversation, nowhere = await world.conversation(), str(uuid.uuid4())
    socket = await world.messages(stranger)
    seen = []
    for target in (conversation, nowhere):
        await socket.send("join", conversationId=target)
        error = await socket.get("error")
        answer = await world.call("GET", f"/api/conversations/{target}/messages", person=stranger)
        seen.append((error["code"], error["message"], answer.status, (answer.body or {}).get("message")))
    if seen[0] != seen[1] or seen[0][0] != "NOT_PARTICIPANT":
        raise Failed(f"theirs: {seen[0]}, nobody's: {seen[1]}")
    return "NOT_PARTICIPANT for both"


@area.check("A page of a foreign origin can't connect")
async def origin(world: World) -> Found:
    """403 at the handshake."""
    headers = {
        "Origin": "https://foreign.example",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    answer = await world.call("GET", "/events/subscribe", headers=headers)
    expect(answer.status == 403, f"the handshake gave {answer.status}: is ALLOWED_ORIGINS `*`?")
    return "403"
