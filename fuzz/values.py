"""What a client that lies puts where something else belongs: values, frames, REST bodies, as hypothesis strategies."""

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

# Stand-ins for what `json.dumps` itself refuses to write.
_RAW = {
    "@deep": "[" * 5000 + "]" * 5000,
    "@deep-open": '{"a":' * 3000,
    "@long-number": "9" * 5000,
    "@long-float": "1e" + "9" * 400,
    "@bare": "nul",
    "@control": '"\t\x00\x1f"',
}
STRANGER = "00000000-0000-4000-8000-00000000dead"

_STRINGS = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "\u202e",
    "\U0010ffff",
    "2026-01-02T12:00:00.000Z",
    "../../../etc/passwd",
    "C:\\windows\\system32",
    "%00%ff",
    "' OR 1=1; DROP TABLE messages; --",
    "{00000000-0000-4000-8000-00000000dead}",
    "00000000000040008000 00000000dead",
    STRANGER.upper(),
    STRANGER + "\n",
    "javascript:alert(1)",
    "https://",
    "http://[::1",
    "x" * 4001,
    "é" * 5000,
    "\\" * 3000,
    "eyJhbGciOiJub25lIn0.e30.",
    *_RAW,
]
_NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**300,
    -0.0,
    0.1,
    1e308,
    float("nan"),
    float("inf"),
]

hostile = st.one_of(
    st.sampled_from(_STRINGS),
    st.sampled_from(_NUMBERS),
    st.sampled_from([None, True, False, [], {}, [None], {"type": "ping"}, [[[]]]]),
    st.text(max_size=40),
    st.integers(),
    st.floats(),
    st.uuids().map(str),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    ),
)


def _fields(conversation_id: str, bounty_id: str) -> Mapping[str, st.SearchStrategy[Any]]:
    """Return what may stand in each field, mostly right."""
    conversation = st.sampled_from([conversation_id] * 4 + [conversation_id.upper(), STRANGER])
    ids = st.lists(st.sampled_from([bounty_id, STRANGER]) | st.uuids().map(str), max_size=5)
    return {
        "ts": st.integers() | st.text(max_size=64) | st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "bountyIds": ids | ids.map(lambda few: few * 200),
        "conversationId": conversation,
        "isTyping": st.booleans(),
        "text": st.text(min_size=1, max_size=100) | st.just("x" * 4000),
        "clientMessageId": st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=64),
        "replyTo": st.none() | st.just(STRANGER),
        "mediaUrl": st.none() | st.just("https://example.org/a.png"),
        "messageId": st.just(STRANGER) | st.uuids().map(str),
        "seq": st.integers(0, 2**63 - 1),
        "conversations": st.dictionaries(conversation | st.uuids().map(str), st.integers(0, 10), max_size=5),
        "token": st.sampled_from(["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "ExponentPushToken[fuzz]"]),
        "participantIds": st.lists(conversation | st.uuids().map(str), max_size=4),
        "bountyId": st.none() | st.just(bounty_id),
        "isGroup": st.booleans(),
        "messageIds": st.lists(st.uuids().map(str), max_size=5),
        "status": st.sampled_from(["read", "delivered", "open", "completed", "sold"]),
        "title": st.text(min_size=1, max_size=30),
        "amountCents": st.integers(0, 10**12),
        "hunterId": st.none() | st.just(STRANGER),
        "messagesEnabled": st.booleans(),
        "deviceId": st.none() | st.text(min_size=1, max_size=30),
        "ids": st.lists(st.uuids().map(str), max_size=5),
        "all": st.booleans(),
        "quietHours": st.none()
        | st.fixed_dictionaries(
            {
                "start": st.sampled_from(["22:00", "24:00", ""]),
                "end": st.sampled_from(["07:30", "7:30"]),
                "timeZone": st.sampled_from(["Europe/Berlin", "Europe", "../UTC", "", "x" * 300, "UTC\x00"]),
            }
        ),
        "mutedConversationIds": st.lists(conversation | st.uuids().map(str), max_size=4),
    }


EVENTS_FRAMES = {"ping": ["ts"], "subscribe": ["bountyIds"], "unsubscribe": ["bountyIds"]}
MESSAGES_FRAMES = {
    "ping": ["ts"],
    "join": ["conversationId"],
    "leave": ["conversationId"],
    "typing": ["conversationId", "isTyping"],
    "message.send": ["conversationId", "text", "clientMessageId", "replyTo", "mediaUrl"],
    "message.delivered": ["conversationId", "messageId", "seq"],
    "message.read": ["conversationId", "messageId", "seq"],
    "sync": ["conversations"],
    "auth.refresh": ["token"],
}


@st.composite
def objects(draw: st.DrawFn, names: list[str], fields: Mapping[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """Return an object with these fields: some of them wrong, some missing, some too many."""
    wrong = draw(st.sets(st.sampled_from(names), max_size=2)) if draw(st.integers(0, 3)) else set()
    value = {name: draw(hostile if name in wrong else fields[name]) for name in names}
    for name in draw(st.sets(st.sampled_from(names), max_size=1)):
        if draw(st.booleans()):
            del value[name]
    if not draw(st.integers(0, 5)):
        value[draw(st.text(max_size=8))] = draw(hostile)
    return value


def frames(kinds: Mapping[str, list[str]], conversation_id: str, bounty_id: str) -> st.SearchStrategy[str]:
    """Return text frames: nearly right, or no frames at all."""
    fields = _fields(conversation_id, bounty_id)

    def of_kind(kind: str) -> st.SearchStrategy[dict[str, Any]]:
        return objects(kinds[kind], fields).map(lambda given: {"type": kind, **given})

    nearly = st.one_of([of_kind(kind) for kind in kinds])
    other_type = st.builds(lambda frame, kind: {**frame, "type": kind}, nearly, hostile)
    return st.one_of(*[nearly] * 8, other_type, hostile).map(written)


def bodies(names: list[str], conversation_id: str, bounty_id: str) -> st.SearchStrategy[str]:
    """Return REST bodies: nearly right, or none at all."""
    if not names:
        return hostile.map(written)
    nearly = objects(names, _fields(conversation_id, bounty_id))
    return st.one_of(*[nearly] * 9, hostile).map(written)


def written(value: Any) -> str:
    """Return a value as JSON, or as what looks like it."""
    text = json.dumps(value, ensure_ascii=True)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text
