"""Notifications on the wire: kinds, bodies, frames, preferences, and what an Expo push token looks like."""

import re
import zoneinfo
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.inbound import Body, Id
from protocol.outbound import ServerFrame, Time, Uuid

# In the order of their columns.
Kind = Literal["applications", "acceptances", "completions", "payments", "messages", "follows", "reminders", "system"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_READ = 1000
MAX_MUTED = 1000

# What Expo gives out: ExponentPushToken[…] or, on newer devices, ExpoPushToken[…]; very old ones were bare UUIDs.
_EXPO_FORM = r"((Exponent|Expo)PushToken\[[A-Za-z0-9_:.-]{1,200}\]|[a-z0-9]{8}(-[a-z0-9]{4}){3}-[a-z0-9]{12})"


def is_expo_token(text: str) -> bool:
    """Whether ``text`` has the form of an Expo push token."""
    return re.fullmatch(_EXPO_FORM, text) is not None


def kind_of(stored_type: str) -> Kind:
    """Return the kind that a stored notification is of; the app's earlier rows name it in the singular."""
    return next((kind for kind in KINDS if stored_type in (kind, kind[:-1])), "system")


class PushToken(Body, kw_only=True):
    """``POST`` and ``DELETE /api/push-tokens``"""

    # Checked below, with words that say what it is.
    token: Annotated[str, Meta(extra_json_schema={"pattern": f"^{_EXPO_FORM}$"})]
    device_id: (
        Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\ud800-\udfff]*$(?!\n)")] | None
    ) = None

    def __post_init__(self) -> None:
        if not is_expo_token(self.token):
            raise ValueError("Expected an Expo push token, like ExponentPushToken[…] - at `$.token`")


class MarkNotifications(Body, kw_only=True):
    """``POST /api/notifications/read``"""

    ids: Annotated[list[Id], Meta(max_length=MAX_READ)] | None = None
    all: bool = False

    # For the documents: what ``__post_init__`` holds to.
    schema: ClassVar[dict[str, Any]] = {
        "oneOf": [
            {"required": ["ids"], "properties": {"ids": {"type": "array"}, "all": {"const": False}}},
            {"required": ["all"], "properties": {"ids": {"type": "null"}, "all": {"const": True}}},
        ]
    }

    def __post_init__(self) -> None:
        if (self.ids is None) is not self.all:
            raise ValueError("Object needs either `ids` or `all` as true")


class QuietHours(Struct, rename="camel", kw_only=True):
    """No pushes from ``start`` to ``end`` by the clock in ``time_zone``; past midnight where ``end`` is the earlier."""

    start: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
    end: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
    time_zone: Annotated[str, Meta(max_length=64)]

    def __post_init__(self) -> None:
        try:
            zoneinfo.ZoneInfo(self.time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # unknown; no name; a directory of names
            raise ValueError("Expected a time zone like Europe/Berlin - at `$.quietHours.timeZone`") from None


class Preferences(Struct, rename="camel", kw_only=True):
    """What a person wants to be told of while away."""

    applications_enabled: bool = True
    acceptances_enabled: bool = True
    completions_enabled: bool = True
    payments_enabled: bool = True
    messages_enabled: bool = True
    follows_enabled: bool = True
    reminders_enabled: bool = True
    system_enabled: bool = True
    quiet_hours: QuietHours | None = None
    muted_conversation_ids: list[Uuid] = []


class ChangePreferences(Body, kw_only=True):
    """``PUT /api/notification-preferences``; what is left out stays as it is."""

    applications_enabled: bool | UnsetType = UNSET
    acceptances_enabled: bool | UnsetType = UNSET
    completions_enabled: bool | UnsetType = UNSET
    payments_enabled: bool | UnsetType = UNSET
    messages_enabled: bool | UnsetType = UNSET
    follows_enabled: bool | UnsetType = UNSET
    reminders_enabled: bool | UnsetType = UNSET
    system_enabled: bool | UnsetType = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
    muted_conversation_ids: Annotated[list[Id], Meta(max_length=MAX_MUTED)] | UnsetType = UNSET


class Notification(Struct, rename="camel", kw_only=True):
    """A notification in REST."""

    id: Uuid
    kind: Kind = msgspec.field(name="type")
    title: str
    body: str
    data: Any
    is_read: bool
    created_at: Time


class NotificationNew(ServerFrame, tag="notification.new", kw_only=True):
    """Something that the user should know; sent again at each connect until it is read."""

    id: Uuid
    notification_type: Kind
    title: str
    body: str
    data: Any
    timestamp: Time
    replayed: bool | UnsetType = UNSET


class NotificationRead(ServerFrame, tag="notification.read", kw_only=True):
    """Notifications that were read, on whichever device."""

    ids: list[Uuid]
    timestamp: Time
