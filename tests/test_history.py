"""``GET /api/conversations/{id}/messages``: pages of history."""

import uuid
from typing import Any

from tests.harness import Server
from tests.test_messages import MOMENT
from tests.test_replay import fill


async def page(server: Server, user: str, chat: str, query: str = "") -> tuple[list[int], dict[str, Any]]:
    """Return a page's seqs and its pagination."""
    answer = await server.rest("GET", f"/api/conversations/{chat}/messages?{query}", user=user)
    assert answer.status == 200, answer.body
    assert answer.body.keys() == {"messages", "pagination"}
    assert answer.body["pagination"].keys() == {"page", "limit", "total", "hasMore"}
    return [message["seq"] for message in answer.body["messages"]], answer.body["pagination"]


async def test_a_message_has_all_its_fields(server: Server) -> None:
    """Every field of a message, as sent: sender's handle, reply, media, status, seq, times."""
    alice, bob = await server.person("alice_page"), await server.person("bob_page")
    chat = await server.conversation(alice, bob)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    first = await phone.say(chat, "first")
    second = await theirs.say(chat, "second", replyTo=first["messageId"], mediaUrl="https://cdn.example/x")
    answer = await server.rest("GET", f"/api/conversations/{chat}/messages", user=alice)
    shared = {"conversationId": chat, "isPinned": False, "status": "sent"}
    assert answer.body["messages"] == [
        {
            "id": first["messageId"], "senderId": alice, "senderHandle": "alice_page", "text": "first", "seq": 1,
            "createdAt": first["timestamp"], "updatedAt": first["timestamp"], "mediaUrl": None, "replyTo": None,
            **shared,
        },
        {
            "id": second["messageId"], "senderId": bob, "senderHandle": "bob_page", "text": "second", "seq": 2,
            "createdAt": second["timestamp"], "updatedAt": second["timestamp"], "mediaUrl": "https://cdn.example/x",
            "replyTo": first["messageId"], **shared,
        },
    ]  # fmt: skip
    assert MOMENT.fullmatch(first["timestamp"])


async def test_page_1_is_the_newest_oldest_first(server: Server) -> None:
    """page and limit: page 1 the newest, oldest first within a page, total and hasMore; 50 a page if not said."""
    alice, bob, chat = await server.pair()
    assert await page(server, bob, chat) == ([], {"page": 1, "limit": 50, "total": 0, "hasMore": False})
    fill(server, chat, alice, 60)
    assert await page(server, bob, chat) == (
        list(range(11, 61)), {"page": 1, "limit": 50, "total": 60, "hasMore": True},
    )  # fmt: skip
    assert await page(server, bob, chat, "page=2") == (
        list(range(1, 11)), {"page": 2, "limit": 50, "total": 60, "hasMore": False},
    )  # fmt: skip
    assert await page(server, bob, chat, "page=3&limit=20") == (
        list(range(1, 21)), {"page": 3, "limit": 20, "total": 60, "hasMore": False},
    )  # fmt: skip
    assert await page(server, bob, chat, "page=9&limit=20") == (
        [], {"page": 9, "limit": 20, "total": 60, "hasMore": False},
    )  # fmt: skip
    assert len((await page(server, bob, chat, "limit=200"))[0]) == 60


async def test_before_and_after_walk_the_whole_length(server: Server) -> None:
    """before=<seq> and after=<seq>: the nearest on that side, oldest first; every message once; hasMore to the end."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 25)
    walked: list[int] = []
    seqs, pagination = await page(server, bob, chat, "before=26&limit=10")
    while seqs:
        assert pagination["hasMore"] is (seqs[0] > 1)
        assert pagination["total"] == 25
        walked = seqs + walked
        seqs, pagination = await page(server, bob, chat, f"before={seqs[0]}&limit=10")
    assert walked == list(range(1, 26))
    walked = []
    seqs, pagination = await page(server, bob, chat, "after=0&limit=10")
    while seqs:
        assert pagination["hasMore"] is (seqs[-1] < 25)
        walked += seqs
        seqs, pagination = await page(server, bob, chat, f"after={seqs[-1]}&limit=10")
    assert walked == list(range(1, 26))
    assert pagination["hasMore"] is False
    assert (await page(server, bob, chat, "after=20"))[0] == [21, 22, 23, 24, 25]
    assert (await page(server, bob, chat, "before=1"))[0] == []
    assert (await page(server, bob, chat, "before=999&limit=2"))[0] == [24, 25]
    assert (await page(server, bob, chat, "after=999"))[0] == []


async def test_pages_do_not_shift_what_before_and_after_say(server: Server) -> None:
    """A message that comes in between moves pages, but not what is before or after a seq."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 10)
    first, _ = await page(server, bob, chat, "limit=4")
    fill(server, chat, alice, 3)
    assert (await page(server, bob, chat, f"before={first[0]}&limit=4"))[0] == [3, 4, 5, 6]
    assert (await page(server, bob, chat, f"after={first[-1]}"))[0] == [11, 12, 13]


async def test_a_wrong_number_is_named(server: Server) -> None:
    """400: a limit over 200 or under 1, a page under 1, and what is no number; the message names it."""
    alice, _, chat = await server.pair()
    wrong = [
        ("limit", "201"), ("limit", "0"), ("limit", "-1"), ("limit", "ten"), ("limit", ""), ("limit", "1e2"),
        ("page", "0"), ("page", "-1"), ("page", "1.5"), ("page", "9" * 30),
        ("before", "-1"), ("before", "x"), ("after", "-1"), ("after", ""), ("after", "%00"), ("after", "²"),
    ]  # fmt: skip
    for name, value in wrong:
        query = f"{name}={value}".replace("²", "%C2%B2")
        answer = await server.rest("GET", f"/api/conversations/{chat}/messages?{query}", user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST"), (name, value)
        assert f"`{name}`" in answer.body["message"]


async def test_a_stranger_can_not_read(server: Server) -> None:
    """NOT_PARTICIPANT, 403: the same answer as for an id that does not exist, for each kind of page."""
    alice, _, chat = await server.pair()
    fill(server, chat, alice, 3)
    stranger = await server.person()
    answers = set()
    for target in (chat, str(uuid.uuid4())):
        for query in ("", "page=2", "before=2", "after=1"):
            answer = await server.rest("GET", f"/api/conversations/{target}/messages?{query}", user=stranger)
            answers.add((answer.status, answer.body["code"], answer.body["message"]))
    assert len(answers) == 1
    assert next(iter(answers))[:2] == (403, "NOT_PARTICIPANT")
