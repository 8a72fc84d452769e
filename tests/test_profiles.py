"""Profiles, made from a token on its user's first visit."""

import asyncio
import uuid
from typing import Any

import pytest

from tests.harness import Server, token


async def visit(server: Server, user: str | None = None, **claims: Any) -> tuple[str, str]:
    """Open a messaging socket with a token; return the user's id and the handle in Postgres."""
    user = user or str(uuid.uuid4())
    client = await server.socket("/messages/subscribe", token=token(user, **claims))
    assert (await client.get("connected"))["userId"] == user
    return user, handle_of(server, user)


def handle_of(server: Server, user: str) -> str:
    """Return a profile's handle."""
    [(handle,)] = server.sql("SELECT username FROM profiles WHERE id = %s", user)
    return str(handle)


async def test_the_handle_is_the_chosen_one(server: Server) -> None:
    """user_metadata.handle comes first, even with an e-mail."""
    _, handle = await visit(server, user_metadata={"handle": "neo"}, email="thomas@matrix.example")
    assert handle == "neo"


async def test_else_the_local_part_of_the_e_mail(server: Server) -> None:
    """Without a chosen handle, or with one that is none, it is what stands before the @."""
    assert (await visit(server, email="thomas.a@matrix.example"))[1] == "thomas.a"
    assert (await visit(server, email="trinity@matrix.example", user_metadata={"handle": 5}))[1] == "trinity"
    assert (await visit(server, email="morpheus@matrix.example", user_metadata={"handle": "  "}))[1] == "morpheus"


@pytest.mark.parametrize("claims", [{}, {"email": ""}, {"email": 5}, {"user_metadata": "x"}, {"user_metadata": None}])
async def test_else_it_is_by_id(server: Server, claims: dict[str, Any]) -> None:
    """user_ and the first eight characters of the id."""
    user, handle = await visit(server, **claims)
    assert handle == f"user_{user[:8]}"


async def test_a_taken_handle_gets_a_suffix(server: Server) -> None:
    """Handles are unique: whoever comes later gets the handle with a suffix, many at once too."""
    await server.person("neo")
    user, handle = await visit(server, user_metadata={"handle": "neo"})
    assert handle == f"neo_{user[:8]}"
    visits = await asyncio.gather(*(visit(server, user_metadata={"handle": "smith"}) for _ in range(10)))
    handles = [handle for _, handle in visits]
    assert len(set(handles)) == 10
    assert "smith" in handles
    assert all(handle.startswith("smith") for handle in handles)


async def test_a_taken_suffix_holds_nobody_up(server: Server) -> None:
    """Where somebody has taken the handle with the suffix too, the newcomer still gets one, and others their own."""
    user = str(uuid.uuid4())
    await server.person("neo")
    await server.person(f"neo_{user[:8]}")
    _, handle = await visit(server, user, user_metadata={"handle": "neo"})
    assert handle.startswith("neo")
    assert (await visit(server, user_metadata={"handle": "trinity"}))[1] == "trinity"


async def test_a_handle_once_made_stays(server: Server) -> None:
    """A later token with another wish changes nothing."""
    user, handle = await visit(server, user_metadata={"handle": "neo"})
    assert await visit(server, user, user_metadata={"handle": "the_one"}) == (user, handle)


async def test_one_person_with_many_devices_at_once_has_one_profile(server: Server) -> None:
    """A first visit on several sockets and over REST at the same moment makes one profile."""
    user = str(uuid.uuid4())
    sockets = (visit(server, user) for _ in range(5))
    calls = (server.rest("GET", "/api/conversations", user=user) for _ in range(5))
    results = await asyncio.gather(*sockets, *calls)
    assert {result[1] for result in results[:5]} == {f"user_{user[:8]}"}
    assert [answer.status for answer in results[5:]] == [200] * 5


async def test_rest_makes_the_profile_too(server: Server) -> None:
    """The first call of a new user works: the list is empty, and they can make a conversation at once."""
    bob = await server.person()
    user = str(uuid.uuid4())
    answer = await server.rest("POST", "/api/conversations", {"participantIds": [bob]}, user=user)
    assert answer.status == 201
    assert {person["handle"] for person in answer.body["conversation"]["participants"]} >= {f"user_{user[:8]}"}
