"""Bounties over REST: what is answered, who may write, and what is refused."""

import re
import uuid
from typing import Any
from urllib.parse import quote

from protocol.inbound import BOUNTY_STATUSES
from tests.harness import Answer, Server, token

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FIELDS = {
    "id", "creatorId", "hunterId", "title", "description", "amountCents", "isForHonor", "status", "createdAt",
    "updatedAt",
}  # fmt: skip

# A body of POST /api/bounties that is refused, and the field that the refusal names.
WRONG_BOUNTIES: list[tuple[dict[str, Any], str]] = [
    ({}, "title"),
    ({"title": None}, "title"),
    ({"title": 7}, "title"),
    ({"title": ""}, "title"),
    ({"title": " \n "}, "title"),
    ({"title": "x" * 201}, "title"),
    ({"title": "nul \x00"}, "title"),
    ({"title": "lone \ud800"}, "title"),
    ({"title": "x", "description": 7}, "description"),
    ({"title": "x", "description": "x" * 10_001}, "description"),
    ({"title": "x", "description": "nul \x00"}, "description"),
    ({"title": "x", "amountCents": -1}, "amountCents"),
    ({"title": "x", "amountCents": 1.5}, "amountCents"),
    ({"title": "x", "amountCents": "12"}, "amountCents"),
    ({"title": "x", "amountCents": 10**30}, "amountCents"),
    ({"title": "x", "isForHonor": "yes"}, "isForHonor"),
]
WRONG_STATUSES: list[tuple[dict[str, Any], str]] = [
    ({}, "status"),
    ({"status": None}, "status"),
    ({"status": "sold"}, "status"),
    ({"status": "OPEN"}, "status"),
    ({"status": 1}, "status"),
    ({"status": "open", "hunterId": "bob"}, "hunterId"),
    ({"status": "open", "hunterId": 7}, "hunterId"),
]


def bearer(user_id: str | None, **claims: Any) -> dict[str, str]:
    """Return the header of a token with these claims."""
    return {"Authorization": f"Bearer {token(user_id, **claims)}"}


async def set_status(server: Server, bounty: str, status: str, headers: dict[str, str], **fields: Any) -> Answer:
    """Ask for a new status."""
    return await server.rest("POST", f"/api/bounties/{bounty}/status", {"status": status, **fields}, headers=headers)


def stored_status(server: Server, bounty: str) -> str:
    """Return the status that stands in the table."""
    return str(server.sql("SELECT status FROM bounties WHERE id = %s", bounty)[0][0])


def refused(answer: Answer, status: int, code: str, names: str = "") -> None:
    """Check an error's status and body, and that its message names what was wrong."""
    assert (answer.status, answer.body["code"]) == (status, code), answer
    assert set(answer.body) == {"error", "message", "code", "requestId"}
    assert answer.body["requestId"] == answer.headers["X-Request-Id"]
    assert names in answer.body["message"], answer.body


def store_bounties(server: Server, *titles: str, status: str = "open") -> None:
    """Store bounties, the last one newest."""
    for age, title in enumerate(reversed(titles)):
        server.sql(
            "INSERT INTO bounties (title, status, created_at) VALUES (%s, %s, now() - %s * interval '1 s')",
            title, status, age,
        )  # fmt: skip


async def titles(server: Server, query: str = "") -> list[str]:
    """Return the titles of a page of bounties, in order."""
    answer = await server.rest("GET", f"/api/bounties{query}")
    assert answer.status == 200, answer
    return [bounty["title"] for bounty in answer.body["bounties"]]


async def test_a_new_bounty_has_all_fields(server: Server) -> None:
    """POST /api/bounties answers 201 with every field; the caller is the creator, the status open."""
    creator = await server.person()
    body = {"title": "Find my cat", "description": "Grey.", "amountCents": 2500, "isForHonor": True}
    answer = await server.rest("POST", "/api/bounties", body, user=creator)
    bounty = answer.body["bounty"]
    assert (answer.status, set(bounty)) == (201, FIELDS)
    assert {name: bounty[name] for name in body} == body
    assert (bounty["creatorId"], bounty["hunterId"], bounty["status"]) == (creator, None, "open")
    assert str(uuid.UUID(bounty["id"])) == bounty["id"]
    assert ISO_TIME.fullmatch(bounty["createdAt"])
    assert ISO_TIME.fullmatch(bounty["updatedAt"])


async def test_only_the_title_is_needed(server: Server) -> None:
    """description, amountCents and isForHonor of a new bounty may be left out; unknown fields are ignored."""
    body = {"title": "Zoë's 🐈", "status": "completed", "creatorId": str(uuid.uuid4())}
    creator = await server.person()
    bounty = (await server.rest("POST", "/api/bounties", body, user=creator)).body["bounty"]
    assert (bounty["title"], bounty["description"]) == ("Zoë's 🐈", "")
    assert (bounty["amountCents"], bounty["isForHonor"]) == (0, False)
    assert (bounty["status"], bounty["creatorId"]) == ("open", creator)


async def test_a_new_bounty_is_stored(server: Server) -> None:
    """What POST answered stands in the table."""
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


async def test_a_wrong_field_of_a_new_bounty_is_named(server: Server) -> None:
    """POST /api/bounties with a missing or wrong field is a 400 that names it, and stores nothing."""
    creator = await server.person()
    for body, named in WRONG_BOUNTIES:
        refused(await server.rest("POST", "/api/bounties", body, user=creator), 400, "INVALID_REQUEST", f"{named}`")
    assert server.sql("SELECT count(*) FROM bounties") == [(0,)]


async def test_the_largest_values_are_stored(server: Server) -> None:
    """A title of 200 characters, a description of 10,000 and an amount beyond 32 bits come back as they were sent."""
    body = {"title": "é" * 200, "description": "é" * 10_000, "amountCents": 10**12}
    answer = await server.rest("POST", "/api/bounties", body, user=await server.person())
    kept = await server.rest("GET", f"/api/bounties/{answer.body['bounty']['id']}")
    assert {name: kept.body["bounty"][name] for name in body} == body


async def test_a_body_that_is_no_json_is_refused(server: Server) -> None:
    """Bodies are JSON: anything else is a 400 INVALID_JSON, and JSON that is no object a 400 INVALID_REQUEST."""
    bounty, creator = await server.bounty()
    for path in ("/api/bounties", f"/api/bounties/{bounty}/status"):
        for raw in (b"", b"{", b"title=x", b"\xff"):
            refused(await server.rest("POST", path, raw=raw, user=creator), 400, "INVALID_JSON")
        refused(await server.rest("POST", path, raw=b"[]", user=creator), 400, "INVALID_REQUEST")


async def test_writing_needs_a_token(server: Server) -> None:
    """POST /api/bounties and its status without a token are AUTH_REQUIRED, with a bad one AUTH_FAILED."""
    bounty, creator = await server.bounty()
    bad = [bearer(creator, exp=1), bearer(creator, secret="another secret, which is long enough too"), bearer("bob")]
    for path, body in (("/api/bounties", {"title": "x"}), (f"/api/bounties/{bounty}/status", {"status": "archived"})):
        refused(await server.rest("POST", path, body), 401, "AUTH_REQUIRED")
        for headers in bad:
            refused(await server.rest("POST", path, body, headers=headers), 401, "AUTH_FAILED")
    assert server.sql("SELECT status FROM bounties") == [("open",)]


async def test_the_service_role_is_nobody_and_posts_no_bounty(server: Server) -> None:
    """A bounty needs a creator: the service_role token, which has no user, is refused."""
    headers = bearer(None, role="service_role", aud=None)
    refused(await server.rest("POST", "/api/bounties", {"title": "x"}, headers=headers), 401, "AUTH_FAILED")


async def test_reading_needs_no_token(server: Server) -> None:
    """GET /api/bounties and GET /api/bounties/{id} give the same object as POST did, to anyone."""
    creator = await server.person()
    posted = (await server.rest("POST", "/api/bounties", {"title": "Lost dog"}, user=creator)).body["bounty"]
    one = await server.rest("GET", f"/api/bounties/{posted['id']}")
    assert (one.status, one.body) == (200, {"bounty": posted})
    assert (await server.rest("GET", "/api/bounties")).body["bounties"] == [posted]
    spoilt = {"Authorization": "Bearer nonsense"}
    assert (await server.rest("GET", "/api/bounties", headers=spoilt)).status == 200


async def test_an_id_may_be_written_in_upper_case(server: Server) -> None:
    """Ids are UUIDs, whatever their case."""
    bounty, _ = await server.bounty()
    assert (await server.rest("GET", f"/api/bounties/{bounty.upper()}")).body["bounty"]["id"] == bounty


async def test_an_unknown_or_malformed_id(server: Server) -> None:
    """An unknown bounty is a 404, an id that is no UUID a 400 that names it."""
    headers, unknown = bearer(await server.person()), uuid.uuid4()
    refused(await server.rest("GET", f"/api/bounties/{unknown}"), 404, "NOT_FOUND")
    refused(await set_status(server, str(unknown), "open", headers), 404, "NOT_FOUND")
    for malformed in ("17", "'", unknown.hex, f"{unknown}0", "%ff"):
        refused(await server.rest("GET", f"/api/bounties/{malformed}"), 400, "INVALID_REQUEST")
    refused(await server.rest("GET", "/api/bounties/17"), 400, "INVALID_REQUEST", "`id`")
    refused(await set_status(server, "17", "open", headers), 400, "INVALID_REQUEST", "`id`")


async def test_bounties_are_listed_newest_first_in_pages(server: Server) -> None:
    """GET /api/bounties?page=&limit= walks all bounties, newest first, each once."""
    store_bounties(server, "a", "b", "c", "d", "e")
    assert await titles(server) == ["e", "d", "c", "b", "a"]
    pages = [await titles(server, f"?page={page}&limit=2") for page in (1, 2, 3, 4)]
    assert pages == [["e", "d"], ["c", "b"], ["a"], []]


async def test_a_page_says_whether_there_are_more(server: Server) -> None:
    """The pagination of a page of bounties: page, limit, hasMore."""
    store_bounties(server, "a", "b", "c", "d")
    full = (await server.rest("GET", "/api/bounties?page=1&limit=3")).body["pagination"]
    last = (await server.rest("GET", "/api/bounties?page=2&limit=2")).body["pagination"]
    assert (full["page"], full["limit"], full["hasMore"]) == (1, 3, True)
    assert (last["page"], last["limit"], last["hasMore"]) == (2, 2, False)


async def test_a_wrong_page_or_limit_is_named(server: Server) -> None:
    """page and limit have to be whole numbers in bounds: a 400 names the wrong one."""
    for name, wrong in (("page", ("0", "-1", "x", "", "1.5", "²")), ("limit", ("0", "201", "x", ""))):
        for value in wrong:
            answer = await server.rest("GET", f"/api/bounties?{name}={quote(value)}")
            refused(answer, 400, "INVALID_REQUEST", f"`{name}`")
    assert (await server.rest("GET", "/api/bounties?limit=200")).status == 200


async def test_bounties_are_filtered_by_status(server: Server) -> None:
    """GET /api/bounties?status= gives the bounties of that status only, in pages too; another word is a 400."""
    store_bounties(server, "done 1", "done 2", status="completed")
    store_bounties(server, "free 1", "free 2", status="open")
    assert await titles(server, "?status=completed") == ["done 2", "done 1"]
    assert await titles(server, "?status=open&limit=1&page=2") == ["free 1"]
    assert await titles(server, "?status=archived") == []
    refused(await server.rest("GET", "/api/bounties?status=sold"), 400, "INVALID_REQUEST", "`status`")


async def test_the_creator_sets_every_status(server: Server) -> None:
    """POST /api/bounties/{id}/status by the creator answers 200 with the changed bounty, for each status there is."""
    bounty, creator = await server.bounty()
    for status in reversed(BOUNTY_STATUSES):
        answer = await set_status(server, bounty, status, bearer(creator))
        assert (answer.status, set(answer.body["bounty"])) == (200, FIELDS)
        assert answer.body["bounty"]["status"] == stored_status(server, bounty) == status


async def test_a_change_moves_updated_at_only(server: Server) -> None:
    """A change of status changes status and updatedAt, and no other field."""
    bounty, creator = await server.bounty()
    before = (await server.rest("GET", f"/api/bounties/{bounty}")).body["bounty"]
    server.sql("UPDATE bounties SET updated_at = now() - interval '1 hour' WHERE id = %s", bounty)
    after = (await set_status(server, bounty, "archived", bearer(creator))).body["bounty"]
    assert after["updatedAt"] >= before["updatedAt"]
    assert after == {**before, "status": "archived", "updatedAt": after["updatedAt"]}


async def test_the_hunter_may_change_the_status(server: Server) -> None:
    """Whom the creator names as hunterId becomes the hunter, and may change the status; hunterId stays if left out."""
    bounty, creator = await server.bounty()
    hunter = await server.person()
    refused(await set_status(server, bounty, "completed", bearer(hunter)), 403, "FORBIDDEN")
    taken = await set_status(server, bounty, "in_progress", bearer(creator), hunterId=hunter)
    assert taken.body["bounty"]["hunterId"] == hunter
    done = await set_status(server, bounty, "completed", bearer(hunter))
    assert (done.status, done.body["bounty"]["hunterId"]) == (200, hunter)


async def test_admins_and_the_service_role_may_change_the_status(server: Server) -> None:
    """app_metadata.role admin or super_admin, and the service_role token with no sub and aud, may change any bounty."""
    bounty, _ = await server.bounty()
    admin = str(uuid.uuid4())
    for status, headers in (
        ("in_progress", bearer(admin, app_metadata={"role": "admin"})),
        ("completed", bearer(admin, app_metadata={"role": "super_admin"})),
        ("archived", bearer(None, role="service_role", aud=None)),
    ):
        assert (await set_status(server, bounty, status, headers)).status == 200
        assert stored_status(server, bounty) == status


async def test_others_may_not_change_the_status(server: Server) -> None:
    """Anybody else gets 403 FORBIDDEN, whatever the user_metadata that they can write themselves says."""
    bounty, _ = await server.bounty()
    stranger = await server.person()
    for claims in (
        {},
        {"user_metadata": {"role": "admin"}},
        {"user_metadata": {"role": "service_role", "app_metadata": {"role": "admin"}}},
        {"app_metadata": {"role": "user"}},
        {"app_metadata": {"role": ["admin"]}},
        {"app_metadata": "admin"},
    ):
        refused(await set_status(server, bounty, "deleted", bearer(stranger, **claims)), 403, "FORBIDDEN")
    assert stored_status(server, bounty) == "open"


async def test_a_bounty_without_creator_and_hunter_is_nobody_s(server: Server) -> None:
    """A bounty with no creator and no hunter is changed by no user: nobody equals no one."""
    bounty = server.sql("INSERT INTO bounties (title) VALUES ('orphan') RETURNING id")[0][0]
    refused(await set_status(server, bounty, "deleted", bearer(await server.person())), 403, "FORBIDDEN")


async def test_a_wrong_status_or_hunter_is_named(server: Server) -> None:
    """POST /api/bounties/{id}/status with a missing or wrong field is a 400 that names it, and changes nothing."""
    bounty, creator = await server.bounty()
    for body, named in WRONG_STATUSES:
        answer = await server.rest("POST", f"/api/bounties/{bounty}/status", body, user=creator)
        refused(answer, 400, "INVALID_REQUEST", f"{named}`")
    assert stored_status(server, bounty) == "open"


async def test_an_unknown_hunter_is_refused(server: Server) -> None:
    """A hunterId that is no profile's is 404 UNKNOWN_USER, and the status stays."""
    bounty, creator = await server.bounty()
    answer = await set_status(server, bounty, "in_progress", bearer(creator), hunterId=str(uuid.uuid4()))
    refused(answer, 404, "UNKNOWN_USER", "hunterId")
    assert stored_status(server, bounty) == "open"
