"""When people who are away are pushed to, when not, and what a push says."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.expo import ACCESS_TOKEN, ExpoStandIn, expo
from tests.harness import NEVER_S, Server, until

__all__ = ["expo"]
Start = Callable[..., Awaitable[Server]]

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


async def device(server: Server, user: str) -> str:
    """Register a device of a user; return its token."""
    token = f"ExponentPushToken[{uuid.uuid4().hex[:22]}]"
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


async def quiet(server: Server) -> None:
    """Wait until nothing is on its way any more."""
    await until(lambda: server.sql("SELECT FROM push_outbox UNION ALL SELECT FROM push_queue") == [], 15)


async def scene(start: Start, expo: ExpoStandIn, **settings: Any) -> tuple[Server, str, str, str, str]:
    """Return a server with pushes on, two people, their conversation and the second one's device."""
    server = await start(**pushing(expo, **settings))
    alice, bob = await server.person("alice"), await server.person("bob")
    return server, alice, bob, await server.conversation(alice, bob), await device(server, bob)


async def test_somebody_away_is_pushed_to(start: Start, expo: ExpoStandIn) -> None:
    """Once, soon, and with all that the app needs."""
    server, alice, _, chat, token = await scene(start, expo)
    (message_id,) = await write(server, alice, chat, "Is the cat back?")
    await until(lambda: expo.messages)
    await quiet(server)
    (message,) = expo.messages
    assert 3500 < message.pop("ttl") <= 3600
    assert message == {
        "to": token,
        "title": "alice",
        "body": "Is the cat back?",
        "data": {
            "conversationId": chat, "senderId": alice, "messageId": message_id, "notificationType": "messages",
        },
        "badge": 1,
        "sound": "default",
        "priority": "high",
        "channelId": "messages",
    }  # fmt: skip
