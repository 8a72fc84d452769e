"""The rules of a push by themselves: quiet hours, what is cut off, what belongs together."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from services.push_rules import PREVIEW_CHARS, Drop, Rules, Send, Wait, compose, cut, key, quiet_for, verdict
from storage.push import Due

RULES = Rules(after_s=10, max_age_s=3600, preview=True)
NOON = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
FAMILY = "👨‍👩‍👧‍👦"


def due(**fields: Any) -> Due:
    """Return a row of the queue that would be sent."""
    usual: dict[str, Any] = {
        "id": 1, "token": "ExponentPushToken[x]", "user_id": "u", "what": "messages",
        "claimed_at": 0.0, "age_s": 5.0, "is_owner": True,
        "is_online": False, "is_enabled": True, "is_muted": False, "quiet_start": None, "quiet_end": None,
        "quiet_time_zone": None, "is_shown": None, "conversation_id": "c", "sender_id": "s",
        "sender_handle": "alice", "missed": 1, "message_id": "m", "text": "hello", "notification_id": None,
        "notification_type": None, "title": None, "body": None, "bounty_id": None,
    }  # fmt: skip
    return Due(**{**usual, **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Send()),
        ({"is_owner": False}, Drop("withdrawn")),
        ({"token": "fcm:something"}, Drop("withdrawn")),
        ({"missed": 0}, Drop("withdrawn")),
        ({"age_s": 3600.0}, Drop("expired")),
        ({"missed": 0, "age_s": 3600.0}, Drop("withdrawn")),
        ({"is_muted": True}, Drop("muted")),
        ({"is_enabled": False}, Drop("disabled")),
        ({"is_online": True}, Wait(timedelta(seconds=5))),
        ({"is_online": True, "age_s": 10.0}, Send()),
        ({"what": "notification"}, Drop("withdrawn")),
        ({"what": "notification", "notification_id": "n"}, Send()),
        ({"what": "badge", "is_shown": True}, Drop("withdrawn")),
        ({"what": "badge", "is_shown": False}, Send()),
        ({"what": "badge", "age_s": 4000.0}, Drop("expired")),
        ({"what": "badge", "is_enabled": False, "is_online": True}, Send()),
    ],
)
def test_verdict(fields: dict[str, Any], expected: object) -> None:
    """The first rule that applies decides."""
    assert verdict(due(**fields), RULES, NOON) == expected


@pytest.mark.parametrize(
    ("start", "end", "zone", "minutes"),
    [
        ("13:00", "15:00", "Europe/Berlin", 60),  # it is 14:00 there
        ("14:00", "14:01", "Europe/Berlin", 1),
        ("12:00", "14:00", "Europe/Berlin", 0),  # over as the clock strikes
        ("22:00", "07:00", "Europe/Berlin", 0),
        ("22:00", "07:00", "America/Los_Angeles", 120),  # 05:00
        ("20:00", "07:00", "Asia/Tokyo", 10 * 60),  # 21:00
        ("00:00", "00:00", "UTC", 0),  # from and to the same: never
        ("17:15", "18:30", "Asia/Kolkata", 60),  # half an hour off
        ("13:00", "15:00", "Mars/Olympus", 0),
        ("13:00", "15:00", "../../etc/passwd", 0),
        ("13:00", "3 pm", "Europe/Berlin", 0),
        ("13:00", "24:00", "Europe/Berlin", 0),
        ("13:00", "14:99", "Europe/Berlin", 0),
    ],
)
def test_quiet_hours(start: str, end: str, zone: str, minutes: int) -> None:
    """By the clock where the person is; past midnight too; nonsense in the table is no quiet hours."""
    row = due(quiet_start=start, quiet_end=end, quiet_time_zone=zone)
    assert quiet_for(row, NOON) == timedelta(minutes=minutes)


def test_the_night_in_which_the_clock_is_set() -> None:
    """Is an hour longer, or shorter."""
    row = due(quiet_start="22:00", quiet_end="07:00", quiet_time_zone="Europe/Berlin")
    autumn = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)  # midnight in summer time
    assert quiet_for(row, autumn) == timedelta(hours=8)
    spring = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)  # midnight in winter time
    assert quiet_for(row, spring) == timedelta(hours=6)


def test_quiet_hours_put_off_or_drop() -> None:
    """Until they end, where the push is worth something then."""
    row = due(quiet_start="13:00", quiet_end="14:30", quiet_time_zone="Europe/Berlin")
    assert verdict(row, RULES, NOON) == Wait(timedelta(minutes=30))
    row.quiet_end = "15:30"
    assert verdict(row, RULES, NOON) == Drop("quiet")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("x" * 95 + FAMILY, "x" * 95 + "…"),  # seven code points, one character
        ("x" * 92 + FAMILY + "yy", "x" * 92 + FAMILY + "…"),
        ("e" + "\u0301" * 200, "…"),
        ("two\n\nlines\tand more  ", "two lines and more"),
        ("", ""),
    ],
)
def test_cut(text: str, expected: str) -> None:
    """At most 100 characters, in one line, none torn."""
    assert cut(text) == expected


@given(st.text(st.sampled_from(["a", " ", "é", "e\u0301"[1], "\u200d", "👩", "🇩", "🇪", "한", "\u1100"]), max_size=300))
def test_cut_tears_nothing(text: str) -> None:
    """Whatever is written."""
    short = cut(text)
    assert len(short) <= PREVIEW_CHARS
    whole = " ".join(text.split())
    if short != whole:
        assert short.endswith("…")
        graphemes = regex.findall(r"\X", whole)
        kept = short[:-1]
        assert any("".join(graphemes[:count]).rstrip() == kept for count in range(len(graphemes)))


def test_what_belongs_together() -> None:
    """One sender, one conversation, one device."""
    same = due(id=2, message_id="n")
    assert key(due()) == key(same)
    assert len({key(row) for row in (due(), due(token="t"), due(conversation_id="d"), due(sender_id="b"))}) == 4
    rows = [due(missed=2, age_s=50.0), due(id=2, missed=1, message_id="newest", age_s=5.0)]
    message = compose(rows, RULES, 9)
    assert (message.body, message.badge, message.ttl) == ("3 new messages from @alice", 9, 3550)
    assert message.data["messageId"] == "newest"


def test_a_long_handle_fits() -> None:
    """Expo takes 4096 bytes."""
    message = compose([due(sender_handle="👩" * 500, text="👩" * 4000)], RULES, 1)
    assert isinstance(message.title, str) and isinstance(message.body, str)
    assert len(message.title) <= 100 and len(message.body) <= 100
