"""What people want to be told of while they are away, over REST."""

from typing import Any

import pytest

from protocol.notifications import KINDS
from tests.harness import Server

PATH = "/api/notification-preferences"
DEFAULTS = {
    **{f"{kind}Enabled": True for kind in KINDS},
    "quietHours": None,
    "mutedConversationIds": [],
}  # fmt: skip
NIGHT = {"start": "22:00", "end": "07:00", "timeZone": "Europe/Berlin"}


async def test_all_is_on_by_default(server: Server) -> None:
    """By the kinds of the contract."""
    answer = await server.rest("GET", PATH, user=await server.person())
    assert (answer.status, answer.body) == (200, DEFAULTS)
    names = "applications acceptances completions payments messages follows reminders system"
    assert set(DEFAULTS) == {f"{name}Enabled" for name in names.split()} | {"quietHours", "mutedConversationIds"}


async def test_what_is_given_changes_and_the_rest_stays(server: Server) -> None:
    """For this user alone."""
    alice, bob, chat = await server.pair()
    steps: list[dict[str, Any]] = [
        {},
        {"messagesEnabled": False},
        {"quietHours": NIGHT, "paymentsEnabled": False},
        {"mutedConversationIds": [chat]},
        {"messagesEnabled": True},
        {"quietHours": None},
        {"mutedConversationIds": []},
    ]
    expected = dict(DEFAULTS)
    for step in steps:
        expected |= step
        for _ in range(2):
            answer = await server.rest("PUT", PATH, step, user=alice)
            assert (answer.status, answer.body) == (200, expected)
        assert (await server.rest("GET", PATH, user=alice)).body == expected
    assert (await server.rest("GET", PATH, user=bob)).body == DEFAULTS


async def test_each_kind_by_itself(server: Server) -> None:
    """Its own column."""
    user = await server.person()
    for kind in KINDS:
        body = {f"{name}Enabled": name != kind for name in KINDS}
        assert (await server.rest("PUT", PATH, body, user=user)).body == {**DEFAULTS, **body}


async def test_only_one_s_own_conversations_are_muted(server: Server) -> None:
    """A stranger's looks as one that does not exist, and then nothing changes."""
    alice, _, chat = await server.pair()
    _, _, strangers = await server.pair()
    for other in (strangers, "00000000-0000-4000-8000-0000000000aa"):
        body = {"mutedConversationIds": [chat, other], "messagesEnabled": False}
        answer = await server.rest("PUT", PATH, body, user=alice)
        assert (answer.status, answer.body["code"]) == (403, "NOT_PARTICIPANT")
    assert (await server.rest("GET", PATH, user=alice)).body == DEFAULTS
    assert server.sql("SELECT 1 FROM conversation_participants WHERE muted") == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"messagesEnabled": "yes"}, "messagesEnabled"),
        ({"messagesEnabled": None}, "messagesEnabled"),
        ({"quietHours": {**NIGHT, "start": "24:00"}}, "start"),
        ({"quietHours": {**NIGHT, "end": "7:00"}}, "end"),
        ({"quietHours": {**NIGHT, "end": "07:00\n"}}, "end"),
        ({"quietHours": {**NIGHT, "timeZone": "Mars/Olympus"}}, "timeZone"),
        ({"quietHours": {**NIGHT, "timeZone": "../../etc/passwd"}}, "timeZone"),
        ({"quietHours": {**NIGHT, "timeZone": "Europe"}}, "timeZone"),
        ({"quietHours": {**NIGHT, "timeZone": "UTC\x00"}}, "timeZone"),
        ({"quietHours": {**NIGHT, "timeZone": ""}}, "timeZone"),
        ({"quietHours": {"start": "22:00"}}, "quietHours"),
        ({"mutedConversationIds": ["x"]}, "mutedConversationIds"),
        ({"mutedConversationIds": None}, "mutedConversationIds"),
    ],
)
async def test_what_is_wrong_is_named(server: Server, body: object, names: str) -> None:
    """400 with the field."""
    user = await server.person()
    answer = await server.rest("PUT", PATH, body, user=user)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
    assert names in answer.body["message"]
    assert (await server.rest("GET", PATH, user=user)).body == DEFAULTS


async def test_who_may(server: Server) -> None:
    """A token is needed; a user without a profile gets one."""
    assert (await server.rest("GET", PATH)).status == 401
    assert (await server.rest("PUT", PATH, {})).status == 401
    assert (await server.rest("PUT", PATH, {}, user="00000000-0000-4000-8000-0000000000ab")).status == 200


async def test_nonsense_in_the_table_is_no_quiet_hours(server: Server) -> None:
    """What was written past the server."""
    user = await server.person()
    server.sql(
        "INSERT INTO notification_preferences (user_id, quiet_start, quiet_end, quiet_time_zone, messages_enabled)"
        " VALUES (%s, 'x', 'y', 'z', NULL)", user,
    )  # fmt: skip
    assert (await server.rest("GET", PATH, user=user)).body == DEFAULTS
