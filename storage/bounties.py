"""Bounties and the public log of their status changes."""

from datetime import datetime

from msgspec import Struct

from protocol.codes import AppError, ErrorCode
from protocol.inbound import BountyStatus
from protocol.outbound import Bounty, new_id, timestamp
from storage.database import Conflict, Database, Row, Statement, array

_COLUMNS = """b.id, b.creator_id, b.hunter_id, b.title, b.description, b.amount_cents, b.is_for_honor, b.status,
    b.created_at, b.updated_at"""

_CREATE = Statement(
    "create_bounty",
    ("uuid", "uuid", "text", "text", "bigint", "boolean"),
    f"""
    WITH made AS (
        INSERT INTO bounties AS b (id, creator_id, title, description, amount_cents, is_for_honor)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING RETURNING {_COLUMNS}
    )
    SELECT * FROM made UNION ALL SELECT {_COLUMNS} FROM bounties b WHERE b.id = $1
    """,
)
_GET = Statement("get_bounty", ("uuid",), f"SELECT {_COLUMNS} FROM bounties b WHERE b.id = $1")
_PAGE_ALL = Statement(
    "bounties_page",
    ("int", "int"),
    f"SELECT {_COLUMNS} FROM bounties b ORDER BY b.created_at DESC, b.id LIMIT $1 OFFSET $2",
)
_PAGE_STATUS = Statement(
    "bounties_status_page",
    ("int", "int", "text"),
    f"SELECT {_COLUMNS} FROM bounties b WHERE b.status = $3 ORDER BY b.created_at DESC, b.id LIMIT $1 OFFSET $2",
)
_CHANGE = Statement(
    "change_bounty_status",
    ("uuid", "text", "uuid"),
    f"""
    UPDATE bounties b SET status = $2, hunter_id = coalesce($3, b.hunter_id), updated_at = now()
    WHERE b.id = $1 RETURNING {_COLUMNS}
    """,
)

_HEAD = Statement("bounty_event_head", (), "SELECT last_event_id FROM bounty_event_head", urgent=True)
_RELAY = Statement(
    "relay_bounty_events", ("bigint", "int"), "SELECT * FROM realtime_relay_bounty_events($1, $2)", urgent=True
)
# The newest of what was missed, so that the stream goes on from there without a gap; one more tells there are more.
_MISSED = Statement(
    "missed_bounty_events",
    ("bigint", "bigint", "int"),
    """
    SELECT event_id, bounty_id, status, created_at FROM bounty_events
    WHERE event_id > $1 AND event_id <= $2 ORDER BY event_id DESC LIMIT $3
    """,
    urgent=True,
)
_MISSED_OF = Statement(
    "missed_events_of_bounties",
    ("bigint", "bigint", "int", "uuid[]"),
    """
    SELECT event_id, bounty_id, status, created_at FROM bounty_events
    WHERE event_id > $1 AND event_id <= $2 AND bounty_id = ANY ($4) ORDER BY event_id DESC LIMIT $3
    """,
    urgent=True,
)


class BountyEvent(Struct):
    """One committed change of status, at its place in the public order."""

    event_id: int
    bounty_id: str
    status: BountyStatus
    created_at: datetime


class Bounties:
    """Stored bounties."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, creator_id: str, title: str, description: str, amount_cents: int, is_for_honor: bool
    ) -> Bounty:
        """Store a new bounty, open."""
        values = (new_id(), creator_id, title, description, amount_cents, is_for_honor)
        return _bounty((await self._database.fetch(_CREATE, values))[0])

    async def get(self, bounty_id: str) -> Bounty:
        """Return the bounty. Raises ``AppError`` NOT_FOUND."""
        return _one(await self._database.fetch(_GET, (bounty_id,)))

    async def page(self, status: str | None, page: int, limit: int) -> tuple[list[Bounty], bool]:
        """Return a page of bounties, newest first, and whether there are more."""
        offset = (page - 1) * limit
        if status is None:
            rows = await self._database.fetch(_PAGE_ALL, (limit + 1, offset))
        else:
            rows = await self._database.fetch(_PAGE_STATUS, (limit + 1, offset, status))
        return [_bounty(row) for row in rows[:limit]], len(rows) > limit

    async def change_status(self, bounty_id: str, status: str, hunter_id: str | None) -> Bounty:
        """Change the row; the trigger logs it and the relay tells. Raises ``AppError`` NOT_FOUND or UNKNOWN_USER."""
        try:
            return _one(await self._database.fetch(_CHANGE, (bounty_id, status, hunter_id)))
        except Conflict as error:
            raise AppError(ErrorCode.UNKNOWN_USER, "`hunterId` names somebody who does not exist.") from error


class BountyLog:
    """The public event log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self) -> int:
        """Return the newest ``event_id``."""
        return int((await self._database.fetch(_HEAD))[0][0])

    async def relay(self, position: int, batch: int) -> list[BountyEvent]:
        """Number what is new, and return up to ``batch`` events after ``position``, oldest first."""
        return [BountyEvent(*row) for row in await self._database.fetch(_RELAY, (position, batch))]

    async def missed(self, after: int, until: int, bounty_ids: set[str], limit: int) -> tuple[list[BountyEvent], bool]:
        """Return the newest ``limit`` events in (``after``, ``until``], oldest first, and whether there were more.

        ``bounty_ids`` narrows them; empty means all.
        """
        if bounty_ids:
            rows = await self._database.fetch(_MISSED_OF, (after, until, limit + 1, array(bounty_ids)))
        else:
            rows = await self._database.fetch(_MISSED, (after, until, limit + 1))
        return [BountyEvent(*row) for row in reversed(rows[:limit])], len(rows) > limit


def _one(rows: list[Row]) -> Bounty:
    if not rows:
        raise AppError(ErrorCode.NOT_FOUND, "There is no such bounty.")
    return _bounty(rows[0])


def _bounty(row: Row) -> Bounty:
    return Bounty(
        id=row[0], creator_id=row[1], hunter_id=row[2], title=row[3], description=row[4] or "", amount_cents=row[5],
        is_for_honor=row[6], status=row[7], created_at=timestamp(row[8]), updated_at=timestamp(row[9]),
    )  # fmt: skip
