"""In-app notifications, and who wants to be told of what."""

import contextlib
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, Struct

from protocol.codes import not_participant
from protocol.notifications import KINDS, ChangePreferences, Notification, Preferences, QuietHours, kind_of
from protocol.outbound import timestamp
from storage.database import Database, Row, Statement, array

_COLUMNS = "n.id, n.type, n.title, n.body, n.data::text, n.is_read, n.created_at"

_PAGE = f"""
    SELECT {_COLUMNS} FROM notifications n
    WHERE n.user_id = $1 {{condition}} ORDER BY n.created_at DESC, n.id DESC LIMIT $2
"""
# By themselves, so that each is found by an index, however far back the page is.
_AFTER = """
    AND (n.created_at, n.id) < ((SELECT b.created_at FROM notifications b WHERE b.id = $3 AND b.user_id = $1), $3)
"""
_IS_UNREAD = "AND n.is_read IS NOT TRUE"
_KEYS = ("uuid", "int")
_ALL = Statement("notifications_page", _KEYS, _PAGE.format(condition=""))
_UNREAD = Statement("unread_notifications_page", _KEYS, _PAGE.format(condition=_IS_UNREAD))
_ALL_AFTER = Statement("notifications_page_after", (*_KEYS, "uuid"), _PAGE.format(condition=_AFTER))
_UNREAD_AFTER = Statement(
    "unread_notifications_page_after", (*_KEYS, "uuid"), _PAGE.format(condition=f"{_IS_UNREAD} {_AFTER}")
)
_COUNT = Statement(
    "count_unread_notifications",
    ("uuid", "int"),
    """
    SELECT count(*) FROM (
        SELECT FROM notifications n WHERE n.user_id = $1 AND n.is_read IS NOT TRUE LIMIT $2
    ) n
    """,
)
_READ = Statement(
    "read_notifications",
    ("uuid", "uuid[]"),
    """
    WITH marked AS (
        UPDATE notifications SET is_read = true WHERE user_id = $1 AND id = ANY ($2) AND is_read IS NOT TRUE RETURNING 1
    )
    SELECT count(*) FROM marked
    """,
)
_READ_ALL = Statement(
    "read_all_notifications",
    ("uuid",),
    """
    WITH marked AS (UPDATE notifications SET is_read = true WHERE user_id = $1 AND is_read IS NOT TRUE RETURNING 1)
    SELECT count(*) FROM marked
    """,
)
# What several people have not read, the newest of each, oldest first; then which of what they were told is unread.
_OWED = Statement(
    "owed_notifications",
    ("uuid[]", "int"),
    f"""
    SELECT u.id, n.* FROM unnest($1) AS u (id) CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM notifications n WHERE n.user_id = u.id AND n.is_read IS NOT TRUE
        ORDER BY n.created_at DESC, n.id DESC LIMIT $2
    ) n
    ORDER BY n.created_at, n.id
    """,
    urgent=True,
)
_STILL_UNREAD = Statement(
    "still_unread_notifications",
    ("uuid[]",),
    "SELECT n.id FROM notifications n WHERE n.id = ANY ($1) AND n.is_read IS NOT TRUE",
    urgent=True,
)

_PREFERENCES = Statement(
    "notification_preferences",
    ("uuid",),
    f"""
    SELECT {", ".join(f"coalesce(p.{kind}_enabled, true)" for kind in KINDS)},
        p.quiet_start, p.quiet_end, p.quiet_time_zone, (
            SELECT array_agg(c.conversation_id ORDER BY c.conversation_id)::text
            FROM conversation_participants c WHERE c.user_id = $1 AND c.muted
        )
    FROM unnest(ARRAY[$1]) AS u (id) LEFT JOIN notification_preferences p ON p.user_id = u.id
    """,
)
_PLACES = ", ".join(f"coalesce(${place}, true)" for place, _ in enumerate(KINDS, 2))
_NEW_VALUES = ", ".join(f"{kind}_enabled = coalesce(${place}, p.{kind}_enabled)" for place, kind in enumerate(KINDS, 2))
_Q = len(KINDS) + 2  # whether quiet hours are given, then the three of them, then whether mutes are, then those
# A participant's mutes are theirs alone: an id that is not of their conversations stays without effect.
_CHANGE = Statement(
    "change_notification_preferences",
    ("uuid", *["boolean"] * (len(KINDS) + 1), "text", "text", "text", "boolean", "uuid[]"),
    f"""
    WITH muted AS (
        UPDATE conversation_participants SET muted = conversation_id = ANY (${_Q + 5})
        WHERE user_id = $1 AND ${_Q + 4} AND muted <> (conversation_id = ANY (${_Q + 5}))
    )
    INSERT INTO notification_preferences AS p (user_id, {", ".join(f"{kind}_enabled" for kind in KINDS)},
        quiet_start, quiet_end, quiet_time_zone)
    VALUES ($1, {_PLACES}, ${_Q + 1}, ${_Q + 2}, ${_Q + 3})
    ON CONFLICT (user_id) DO UPDATE SET {_NEW_VALUES},
        quiet_start = CASE WHEN ${_Q} THEN excluded.quiet_start ELSE p.quiet_start END,
        quiet_end = CASE WHEN ${_Q} THEN excluded.quiet_end ELSE p.quiet_end END,
        quiet_time_zone = CASE WHEN ${_Q} THEN excluded.quiet_time_zone ELSE p.quiet_time_zone END
    """,
)
_FOREIGN = Statement(
    "foreign_conversations",
    ("uuid", "uuid[]"),
    """
    SELECT c.id FROM unnest($2) AS c (id) WHERE NOT EXISTS (
        SELECT FROM conversation_participants p WHERE p.conversation_id = c.id AND p.user_id = $1
    ) LIMIT 1
    """,
)

# Past this the exact number helps nobody.
_COUNT_MOST = 10_000


class Owed(Struct):
    """An unread notification, and whose it is."""

    user_id: str
    notification: Notification


class Notifications:
    """Stored notifications and preferences."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, user_id: str, before: str | None, limit: int, *, unread: bool
    ) -> tuple[list[Notification], bool]:
        """Return a page, newest first, after the notification ``before``, and whether there are more."""
        if before is None:
            rows = await self._database.fetch(_UNREAD if unread else _ALL, (user_id, limit + 1))
        else:
            rows = await self._database.fetch(_UNREAD_AFTER if unread else _ALL_AFTER, (user_id, limit + 1, before))
        return [_notification(row) for row in rows[:limit]], len(rows) > limit

    async def count_unread(self, user_id: str) -> int:
        """Return how many are unread, counted up to 10,000."""
        return int((await self._database.fetch(_COUNT, (user_id, _COUNT_MOST)))[0][0])

    async def mark_read(self, user_id: str, ids: Iterable[str] | None) -> int:
        """Mark the user's own among ``ids`` (None: all) read, and return how many were not yet."""
        if ids is None:
            rows = await self._database.fetch(_READ_ALL, (user_id,))
        else:
            rows = await self._database.fetch(_READ, (user_id, array(ids)))
        return int(rows[0][0])

    async def owed(self, user_ids: Iterable[str], limit: int) -> list[Owed]:
        """Return the newest ``limit`` that each of these people has not read, oldest first."""
        rows = await self._database.fetch(_OWED, (array(user_ids), limit))
        return [Owed(row[0], _notification(row[1:])) for row in rows]

    async def still_unread(self, ids: Iterable[str]) -> set[str]:
        """Return which of ``ids`` are there and unread."""
        return {row[0] for row in await self._database.fetch(_STILL_UNREAD, (array(ids),))}

    async def preferences(self, user_id: str) -> Preferences:
        """Return the user's preferences; all is on by default."""
        row = (await self._database.fetch(_PREFERENCES, (user_id,)))[0]
        return _preferences(row)

    async def change(self, user_id: str, change: ChangePreferences) -> None:
        """Change what is given. Raises ``AppError`` NOT_PARTICIPANT for a muted conversation that is not the user's."""
        quiet, muted = change.quiet_hours, change.muted_conversation_ids
        if muted is not UNSET:
            foreign = await self._database.fetch(_FOREIGN, (user_id, array(muted)))
            if foreign:
                raise not_participant(foreign[0][0])
        hours = (quiet.start, quiet.end, quiet.time_zone) if isinstance(quiet, QuietHours) else (None, None, None)
        kinds = [getattr(change, f"{kind}_enabled") for kind in KINDS]
        values = (
            user_id,
            *(None if enabled is UNSET else enabled for enabled in kinds),
            quiet is not UNSET,
            *hours,
            muted is not UNSET,
            array([] if muted is UNSET else muted),
        )
        await self._database.fetch(_CHANGE, values)


def _notification(row: Row) -> Notification:
    # Its data is the app's: handed on as it is, however deep it goes.
    return Notification(
        id=row[0], kind=kind_of(row[1] or ""), title=row[2] or "", body=row[3] or "",
        data=msgspec.Raw((row[4] or "{}").encode()), is_read=row[5] is True, created_at=timestamp(row[6]),
    )  # fmt: skip


def _preferences(row: Row) -> Preferences:
    enabled = dict(zip((f"{kind}_enabled" for kind in KINDS), row, strict=False))
    start, end, time_zone = row[len(KINDS) : len(KINDS) + 3]
    quiet = None
    if start and end and time_zone:
        with contextlib.suppress(msgspec.ValidationError):  # written past the server: they are no quiet hours
            quiet = msgspec.convert({"start": start, "end": end, "timeZone": time_zone}, QuietHours)
    muted = row[-1][1:-1].split(",") if row[-1] else []
    return Preferences(**enabled, quiet_hours=quiet, muted_conversation_ids=muted)
