"""What becomes of a push that is due, and what it says. Decides only: no clock, no database, no Expo.

``verdict`` looks at one row of the queue, ``compose`` makes one message of those that belong together.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import regex
from msgspec import UNSET, Struct

from protocol.notifications import is_expo_token, kind_of
from services.expo import Message
from storage.push import Due

# The longest preview, in characters.
PREVIEW_CHARS = 100
_CHANNELS = {
    "messages": "messages",
    "applications": "bounties",
    "acceptances": "bounties",
    "completions": "bounties",
    "payments": "payments",
}
_GRAPHEME = regex.compile(r"\X")


class Rules(Struct, frozen=True, kw_only=True):
    """When, and how much to say.

    :param after_s: seconds that somebody who is online has to receive a message by themselves.
    :param max_age_s: seconds after which a push is worth nothing.
    :param preview: whether a push may hold what was written.
    """

    after_s: float
    max_age_s: float
    preview: bool


# Why a push that was owed is not sent.
DROP_REASONS = ("withdrawn", "expired", "muted", "disabled", "quiet")


class Drop(Struct, frozen=True):
    """It is not sent; ``reason`` is one of ``DROP_REASONS``."""

    reason: str


class Wait(Struct, frozen=True):
    """It is looked at again after ``time``."""

    time: timedelta


class Send(Struct, frozen=True):
    """It is sent."""


def verdict(due: Due, rules: Rules, now: datetime) -> Drop | Wait | Send:
    """Say what becomes of ``due`` at ``now``, an aware time."""
    if not due.is_owner or not is_expo_token(due.token) or _is_settled(due):
        return Drop("withdrawn")
    left_s = rules.max_age_s - due.age_s
    if left_s <= 0:
        return Drop("expired")
    if due.what == "badge":  # makes no sound and shows no text
        return Send()
    if due.is_muted or not due.is_enabled:
        return Drop("muted" if due.is_muted else "disabled")
    if due.is_online and due.age_s < rules.after_s:
        return Wait(timedelta(seconds=rules.after_s - due.age_s))
    quiet = quiet_for(due, now)
    if quiet:
        return Wait(quiet) if quiet.total_seconds() < left_s else Drop("quiet")
    return Send()


def quiet_for(due: Due, now: datetime) -> timedelta:
    """Return how long the person's quiet hours last from ``now``; zero outside of them."""
    if not (due.quiet_start and due.quiet_end and due.quiet_time_zone):
        return timedelta()
    start, end = due.quiet_start, due.quiet_end
    try:
        local = now.astimezone(ZoneInfo(due.quiet_time_zone))
        hour, minute = map(int, end.split(":"))
        until = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # written past the server: they are no quiet hours
        return timedelta()
    clock = local.strftime("%H:%M")
    is_quiet = start <= clock < end if start <= end else clock >= start or clock < end
    if not is_quiet:
        return timedelta()
    if until <= local:
        until += timedelta(days=1)
    # Between moments, not wall clocks: a night in which the clock is set is an hour longer or shorter.
    return datetime.fromtimestamp(until.timestamp(), now.tzinfo) - now


def key(due: Due) -> tuple[str | None, ...]:
    """Return what pushes that become one have in common."""
    return due.token, due.what, due.conversation_id, due.sender_id, due.notification_id


def compose(dues: Sequence[Due], rules: Rules, badge: int) -> Message:
    """Return the one push for ``dues``, which have the same key, oldest first."""
    due = dues[-1]
    ttl = max(1, int(rules.max_age_s - dues[0].age_s))
    if due.what == "badge":
        return Message(
            to=due.token, data={"notificationType": "badge"}, badge=badge, ttl=ttl, priority="normal",
            content_available=True,
        )  # fmt: skip
    if due.what == "messages":
        kind, title = "messages", due.sender_handle or ""
        body = _said(dues, rules)
        data = {"conversationId": due.conversation_id, "senderId": due.sender_id, "messageId": due.message_id}
    else:
        kind, title, body = kind_of(due.notification_type or ""), due.title or "", due.body or ""
        data = {"notificationId": due.notification_id, "bountyId": due.bounty_id}
        if not rules.preview:
            title, body = "New notification", ""
    return Message(
        to=due.token,
        title=cut(title),
        body=cut(body) or UNSET,
        data={name: value for name, value in {**data, "notificationType": kind}.items() if value is not None},
        badge=badge,
        sound="default",
        ttl=ttl,
        priority="high",
        channel_id=_CHANNELS.get(kind, "default"),
    )


def _is_settled(due: Due) -> bool:
    """Whether there is nothing left to tell: delivered or read meanwhile, or the badge is right already."""
    if due.what == "badge":
        return bool(due.is_shown)
    return due.missed == 0 if due.what == "messages" else due.notification_id is None


def _said(dues: Sequence[Due], rules: Rules) -> str:
    count = sum(due.missed for due in dues)
    if count > 1:
        return f"{count} new messages from @{dues[-1].sender_handle}"
    return dues[-1].text or "" if rules.preview else f"New message from @{dues[-1].sender_handle}"


def cut(text: str) -> str:
    """Return ``text`` in one line, with at most ``PREVIEW_CHARS`` characters and no character torn (UAX #29)."""
    text = " ".join(text.split())
    if len(text) <= PREVIEW_CHARS:
        return text
    end = 0
    for grapheme in _GRAPHEME.finditer(text):
        if grapheme.end() > PREVIEW_CHARS - 1:
            break
        end = grapheme.end()
    return text[:end].rstrip() + "…"
