"""The history that the dashboard shows: a row a minute and process, a bitmap of people an hour."""

import math
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from storage.database import Database, Row, Statement, array

# The bounds by which the time to delivery and to reading is counted, in seconds: from at once to the day after
# tomorrow, for people who are away read in the evening, or on Monday. Stored rows hold counts by these places.
WAITS_S = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 48 * 3600)

# Counts by how long it took to be delivered, and to be read.
Waits = tuple[list[int], list[int]]

# Bits of an hour's bitmap; the estimate is within 1 % for 200,000 people, and near the truth for a few.
PEOPLE_BITS = 65_536


class Minute(Struct, kw_only=True):
    """What one process did in one minute. The columns' meaning is in the migration."""

    minute: datetime
    messages: int
    recipients: int
    delivered: int
    read: int
    delivered_after: list[int]
    read_after: list[int]
    conversations: int
    connects: int
    disconnects: int
    errors: int
    peak_connections: int
    peak_people: int


class Step(Struct, kw_only=True):
    """One step of a span, all processes together."""

    at: datetime
    messages: int
    recipients: int
    delivered: int
    read: int
    conversations: int
    connects: int
    disconnects: int
    errors: int
    peak_connections: int
    peak_people: int


# A minute's row is written when the minute is over and never changes: where it is known, it came with an answer that
# was lost.
_WRITE = Statement(
    "write_analytics_minutes",
    ("uuid", "timestamptz[]", *["int[]"] * 4, *["text[]"] * 2, *["int[]"] * 6),
    """
    INSERT INTO analytics_minutes (
        instance, minute, messages, recipients, delivered, read, delivered_after, read_after,
        conversations, connects, disconnects, errors, peak_connections, peak_people
    )
    SELECT $1, i.minute, i.messages, i.recipients, i.delivered, i.read, i.delivered_after::int[], i.read_after::int[],
        i.conversations, i.connects, i.disconnects, i.errors, i.peak_connections, i.peak_people
    FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS i (
        minute, messages, recipients, delivered, read, delivered_after, read_after,
        conversations, connects, disconnects, errors, peak_connections, peak_people
    )
    ON CONFLICT DO NOTHING
    """,
)
_ADD_PEOPLE = Statement(
    "add_analytics_people",
    ("timestamptz", "text"),
    f"""
    INSERT INTO analytics_hours (hour, people) VALUES ($1, ('x' || $2)::bit({PEOPLE_BITS}))
    ON CONFLICT (hour) DO UPDATE SET people = analytics_hours.people | EXCLUDED.people
    """,
)
_STEPS = Statement(
    "analytics_steps",
    ("timestamptz", "timestamptz", "interval"),
    """
    WITH minutes AS (
        SELECT minute, sum(messages) AS messages, sum(recipients) AS recipients, sum(delivered) AS delivered,
            sum(read) AS read, sum(conversations) AS conversations, sum(connects) AS connects,
            sum(disconnects) AS disconnects, sum(errors) AS errors, sum(peak_connections) AS peak_connections,
            sum(peak_people) AS peak_people
        FROM analytics_minutes WHERE minute >= $1 AND minute < $2 GROUP BY minute
    )
    SELECT date_bin($3, minute, $1) AS at, sum(messages)::bigint, sum(recipients)::bigint, sum(delivered)::bigint,
        sum(read)::bigint, sum(conversations)::bigint, sum(connects)::bigint, sum(disconnects)::bigint,
        sum(errors)::bigint, max(peak_connections)::bigint, max(peak_people)::bigint
    FROM minutes GROUP BY at ORDER BY at
    """,
)


def _place_by_place(column: str) -> str:
    """Return the sum of a column of counts: five times as fast as by ``unnest``, which makes a row of each place."""
    return f"ARRAY[{', '.join(f'sum({column}[{place + 1}])' for place in range(len(WAITS_S) + 1))}]::bigint[]"


_WAITS = Statement(
    "analytics_waits",
    ("timestamptz", "timestamptz", "interval"),
    f"""
    SELECT date_bin($3, minute, $1) AS at, {_place_by_place("delivered_after")}, {_place_by_place("read_after")}
    FROM analytics_minutes WHERE minute >= $1 AND minute < $2 GROUP BY at
    """,
)
# The last row, without a time, is the whole span: who came in two hours is one person.
_PEOPLE = Statement(
    "analytics_people",
    ("timestamptz", "timestamptz", "interval"),
    """
    SELECT date_bin($3, hour, $1) AS at, bit_count(bit_or(people))
    FROM analytics_hours WHERE hour >= $1 AND hour < $2 GROUP BY GROUPING SETS ((at), ())
    """,
)
_BUSIEST = Statement(
    "analytics_busiest",
    ("timestamptz", "timestamptz"),
    """
    SELECT extract(isodow FROM minute)::int - 1 AS weekday, extract(hour FROM minute)::int AS hour,
        sum(messages)::bigint
    FROM analytics_minutes WHERE minute >= $1 AND minute < $2 GROUP BY weekday, hour
    """,
)
_FORGET = Statement(
    "forget_analytics",
    ("timestamptz",),
    """
    WITH minutes AS (DELETE FROM analytics_minutes WHERE minute < $1)
    DELETE FROM analytics_hours WHERE hour < $1
    """,
)


class Analytics:
    """The stored history."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, instance: str, minutes: Sequence[Minute], *, deadline_s: float | None = None) -> None:
        """Store minutes of a process; one that is stored already stays as it is."""
        columns = [[getattr(minute, name) for minute in minutes] for name in Minute.__struct_fields__]
        values = [array(map(_literal, column)) for column in columns]
        await self._database.fetch(_WRITE, (instance, *values), deadline_s=deadline_s)

    async def add_people(self, hour: datetime, people: bytes, *, deadline_s: float | None = None) -> None:
        """Join a bitmap of PEOPLE_BITS to the hour's."""
        await self._database.fetch(_ADD_PEOPLE, (hour, people.hex()), deadline_s=deadline_s)

    async def steps(self, since: datetime, until: datetime, step_s: int) -> list[Step]:
        """Return the steps of [``since``, ``until``) in which there was anything, oldest first."""
        rows = await self._rows(_STEPS, since, until, step_s)
        return [Step(**dict(zip(Step.__struct_fields__, row, strict=True))) for row in rows]

    async def waits(self, since: datetime, until: datetime, step_s: int) -> dict[datetime, Waits]:
        """Return, by step, the counts of how long delivery and reading took."""
        return {at: (delivered, read) for at, delivered, read in await self._rows(_WAITS, since, until, step_s)}

    async def people(self, since: datetime, until: datetime, step_s: int) -> dict[datetime | None, int]:
        """Return how many different people there were, about, by step; under None in all. ``since`` is a full hour."""
        return {at: _estimate(ones or 0) for at, ones in await self._rows(_PEOPLE, since, until, step_s)}

    async def busiest(self, since: datetime, until: datetime) -> list[tuple[int, int, int]]:
        """Return (weekday from Monday = 0, hour, messages), in UTC."""
        return [(row[0], row[1], row[2]) for row in await self._database.fetch(_BUSIEST, (since, until))]

    async def forget(self, before: datetime) -> None:
        """Delete what is older."""
        await self._database.fetch(_FORGET, (before,))

    async def _rows(self, statement: Statement, since: datetime, until: datetime, step_s: int) -> list[Row]:
        return await self._database.fetch(statement, (since, until, f"{step_s} seconds"))


def _literal(value: datetime | int | list[int]) -> str | int:
    if isinstance(value, datetime):
        return value.isoformat()
    return array(value) if isinstance(value, list) else value


def _estimate(ones: int) -> int:
    """Return how many people set so many bits (linear counting: some share a bit, and how many is known)."""
    zeros = max(1, PEOPLE_BITS - ones)
    return round(PEOPLE_BITS * math.log(PEOPLE_BITS / zeros))
