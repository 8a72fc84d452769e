"""Bounties over REST: who may write, what is refused, and what is answered."""

import re
import uuid
from typing import Any

import pytest

from protocol.inbound import BOUNTY_STATUSES
from tests.harness import Answer, Server, token

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FIELDS = {
    "id", "creatorId", "hunterId", "title", "description", "amountCents", "isForHonor", "status", "createdAt",
    "updatedAt",
}  # fmt: skip


def bearer(user_id: str | None, **claims: Any) -> dict[str, str]:
    """Return the header of a token with these claims."""
    return {"Authorization": f"Bearer {token(user_id, **claims)}"}


async def set_status(server: Server, bounty: str, status: str, headers: dict[str, str], **fields: Any) -> Answer:
    """Ask for a new status."""
    return await server.rest("POST", f"/api/bounties/{bounty}/status", {"status": status, **fields}, headers=headers)


async def listed(server: Server, query: str = "") -> list[str]:
    """Return the titles of a page of bounties."""
    answer = await server.rest("GET", f"/api/bounties{query}")
    assert answer.status == 200, answer
    return [bounty["title"] for bounty in answer.body["bounties"]]


def refused(answer: Answer, status: int, code: str, names: str = "") -> None:
    """Check an error's status and body, and that its message names what was wrong."""
    assert (answer.status, answer.body["code"]) == (status, code), answer
    assert set(answer.body) == {"error", "message", "code", "requestId"}
    assert answer.body["requestId"] == answer.headers["X-Request-Id"]
    assert names in answer.body["message"], answer.body


def post_bounties(server: Server, *titles: str) -> None:
    """Post bounties, the last one newest."""
    for age, title in enumerate(reversed(titles)):
        server.sql("INSERT INTO bounties (title, created_at) VALUES (%s, now() - %s * interval '1 s')", title, age)


async def test_a_new_bounty_has_all_fields(server: Server) -> None:
    """POST /api/bounties answers 201 with every field; the caller is the creator, the status open."""
    creator = await server.person()
    body = {"title": "Find my cat", "description": "Grey.", "amountCents": 2500, "isForHonor": True}
    answer = await server.rest("POST", "/api/bounties", body, user=creator)
    assert answer.status == 201
    bounty = answer.body["bounty"]
    assert set(bounty) == FIELDS
    assert {name: bounty[name] for name in body} == body
    assert (bounty["creatorId"], bounty["hunterId"], bounty["status"]) == (creator, None, "open")
    assert str(uuid.UUID(bounty["id"])) == bounty["id"]
    assert ISO_TIME.fullmatch(bounty["createdAt"]) and ISO_TIME.fullmatch(bounty["updatedAt"])


async def test_only_the_title_is_needed(server: Server) -> None:
    """description, amountCents and isForHonor of a new bounty may be left out."""
    answer = await server.rest("POST", "/api/bounties", {"title": "Zoë's 🐈"}, user=await server.person())
    bounty = answer.body["bounty"]
    assert bounty["title"] == "Zoë's 🐈"
    assert (bounty["description"], bounty["amountCents"], bounty["isForHonor"]) == ("", 0, False)


async def test_a_new_bounty_is_stored_before_it_is_answered(server: Server) -> None:
    """What POST answered is what stands in the table."""
    bounty, creator = await server.bounty()
    stored = server.sql("SELECT creator_id, title, status FROM bounties WHERE id = %s", bounty)
    assert stored == [(creator, "Find my cat", "open")]


async def test_a_creator_without_a_profile_gets_one(server: Server) -> None:
    """A valid token of a user with no profile creates the profile."""
    stranger = str(uuid.uuid4())
    headers = bearer(stranger, user_metadata={"handle": "newcomer"})
    answer = await server.rest("POST", "/api/bounties", {"title": "First"}, headers=headers)
    assert answer.body["bounty"]["creatorId"] == stranger
    assert server.sql("SELECT username FROM profiles WHERE id = %s", stranger) == [("newcomer",)]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "title"),
        ({"title": None}, "title"),
        ({"title": 7}, "title"),
        ({"title": ""}, "title"),
        ({"title": " \n "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": "nul \x00"}, "title"),
        ({"title": "x", "description": 7}, "description"),
        ({"title": "x", "description": "x" * 10_001}, "description"),
        ({"title": "x", "description": "nul \x00"}, "description"),
        ({"title": "x", "amountCents": -1}, "amountCents"),
        ({"title": "x", "amountCents": 1.5}, "amountCents"),
        ({"title": "x", "amountCents": "12"}, "amountCents"),
        ({"title": "x", "amountCents": 10**30}, "amountCents"),
        ({"title": "x", "isForHonor": "yes"}, "isForHonor"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else value,
)
async def _refused_bounty(server: Server, body: dict[str, Any], named: str) -> None:
    """Placeholder."""
