"""A whole run: what is sent to whom, and how much of each."""

import asyncio
import random
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from fuzz import decoder, drivers
from fuzz.findings import Findings
from fuzz.mutate import draw, texts, wire
from fuzz.requests import ROUTES, request
from fuzz.values import EVENTS_FRAMES, MESSAGES_FRAMES, bodies, frames
from protocol import inbound
from protocol.inbound import EventsFrame, FrameDecoder, MessagesFrame

_AT_ONCE = 6
# How many inputs go where: of those for the decoders, …
_DECODED = {"decoder, events": 0.3, "decoder, messages": 0.5, "decoder, bodies": 0.2}
# … and of those for a server; the rest are chat frames on an authenticated socket.
_SENT = {
    "frames, events": 0.20,
    "frames, before auth": 0.03,
    "bytes, events": 0.12,
    "bytes, before auth": 0.05,
    "bytes, authenticated": 0.12,
    "HTTP requests": 0.15,
}
_BODIES: list[type[inbound.Body]] = [
    inbound.NewConversation,
    inbound.NewMessage,
    inbound.MarkMessages,
    inbound.SetTyping,
    inbound.NewBounty,
    inbound.ChangeStatus,
]
_UNAUTHENTICATED_AT_ONCE = 10
# Long beyond every limit: in a frame of its own these end the connection by contract.
_HUGE = ["x" * 1_000_000, '{"type":"ping","ts":"' + "9" * 1_000_000 + '"}', '{"type":"join","conversationId":"\ud800"}']


class Campaign:
    """Inputs for a server.

    :param conversation_id: a conversation of ``token``'s user.
    :param seeds: how many examples hypothesis draws for each kind of frame and body.
    """

    def __init__(self, token: str, conversation_id: str, bounty_id: str, *, seed: int, seeds: int) -> None:
        self._rng = random.Random(seed)
        self._token = token
        self._ids = (conversation_id, bounty_id)
        known = (conversation_id, bounty_id)
        self._events = draw(frames(EVENTS_FRAMES, *known), seeds, seed)
        self._messages = draw(frames(MESSAGES_FRAMES, *known), seeds, seed + 1)
        self._bodies = {
            route: draw(bodies(fields, *known), max(20, seeds // 20), seed + 2) for route, fields in ROUTES.items()
        }

    def decode(self, inputs: int, findings: Findings) -> None:
        """Try the decoders by themselves."""
        for part, union, seeds in (
            ("decoder, events", EventsFrame, self._events),
            ("decoder, messages", MessagesFrame, self._messages),
        ):
            some = texts(seeds, int(inputs * _DECODED[part]), self._rng)
            decoder.decode_all(part, FrameDecoder[Any](union), [*some, *_HUGE], findings)
        every = [body for some in self._bodies.values() for body in some]
        part = "decoder, bodies"
        decoder.decode_bodies(part, _BODIES, texts(every, int(inputs * _DECODED[part]), self._rng), findings)

    async def send(self, port: int, inputs: int, findings: Findings) -> None:
        """Send to a server: to both endpoints, before and after authentication, and to the REST routes."""
        shares = {part: int(inputs * share) for part, share in _SENT.items()}
        chat = inputs - sum(shares.values())
        messages, paths = "/messages/subscribe", {"bytes, events": "/events/subscribe"}
        authenticated = f"{messages}?replay=0&token={self._token}"
        paths |= {"bytes, before auth": messages, "bytes, authenticated": authenticated}
        events_frames = texts(self._events, shares["frames, events"], self._rng)
        await self._on_sockets(port, "/events/subscribe", "frames, events", EventsFrame, events_frames, findings)
        chat_frames = texts(self._messages, chat, self._rng)
        await self._on_sockets(port, authenticated, "frames, authenticated", MessagesFrame, chat_frames, findings)
        early = texts(self._messages, shares["frames, before auth"], self._rng)
        step = _UNAUTHENTICATED_AT_ONCE
        await _all(
            drivers.unauthenticated(port, early[start : start + step], findings) for start in range(0, len(early), step)
        )
        for part, path in paths.items():
            await _all(
                drivers.bytes_on_socket(port, path, part, wire(self._messages, self._rng), findings)
                for _ in range(shares[part])
            )
        await _all(
            drivers.http(port, request(self._bodies, self._ids, self._token, self._rng), findings)
            for _ in range(shares["HTTP requests"])
        )

    async def _on_sockets(
        self, port: int, path: str, part: str, union: Any, some: Sequence[str], findings: Findings
    ) -> None:
        known = FrameDecoder[Any](union)
        step = len(some) // _AT_ONCE + 1
        await _all(
            drivers.Socket(port, path, part, known, findings).send_all([*some[start : start + step], *_HUGE])
            for start in range(0, len(some), step)
        )


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Await all of it, a few at a time; what is not begun is not even made."""
    todo = iter(work)

    async def one_by_one() -> None:
        for each in todo:
            await each

    await asyncio.gather(*(one_by_one() for _ in range(_AT_ONCE)))
