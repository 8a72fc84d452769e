"""Push tokens: which device is whose. A token belongs to the person who registered it last."""

import contextlib

from storage.database import Conflict, Database, Statement

# One person's devices; the oldest gives way. Each is a push for each message.
MAX_DEVICES = 20

# Where an older table holds its tokens unique, another registration of the same one at the same moment is a conflict.
# It is seen, and takes its turn, the next time.
_TRIES = 10

# A device that was given a new token is one device. The insert waits for the deletes: an older table may hold its
# tokens unique.
_REGISTER = Statement(
    "register_push_token",
    ("uuid", "text", "text", "int"),
    """
    WITH gone AS (
        DELETE FROM push_tokens WHERE token = $2 AND user_id IS DISTINCT FROM $1 RETURNING token
    ), outdated AS (
        DELETE FROM push_tokens WHERE user_id = $1 AND token <> $2 AND (device_id = $3 OR id IN (
            SELECT id FROM push_tokens WHERE user_id = $1 AND token <> $2
            ORDER BY updated_at DESC, id DESC OFFSET $4 - 1 LIMIT 100
        )) RETURNING token
    ), kept AS (
        UPDATE push_tokens SET device_id = coalesce($3, device_id), updated_at = clock_timestamp()
        WHERE token = $2 AND user_id = $1 RETURNING token
    )
    INSERT INTO push_tokens (user_id, token, device_id, updated_at)
    SELECT $1, $2, $3, clock_timestamp()
    WHERE NOT EXISTS (SELECT FROM kept)
        AND (SELECT count(*) FROM (SELECT FROM gone UNION ALL SELECT FROM outdated) o) >= 0
    """,
)
# All rows of the token: what an earlier owner left must not make it theirs again.
_UNREGISTER = Statement(
    "unregister_push_token",
    ("uuid", "text"),
    """
    DELETE FROM push_tokens WHERE token = $2
        AND EXISTS (SELECT FROM realtime_push_tokens t WHERE t.token = $2 AND t.user_id = $1)
    """,
)


class Devices:
    """Stored push tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, user_id: str, token: str, device_id: str | None) -> None:
        """Make the token this person's, and nobody else's."""
        values = (user_id, token, device_id, MAX_DEVICES)
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Conflict):
                await self._database.fetch(_REGISTER, values)
                return
        await self._database.fetch(_REGISTER, values)

    async def unregister(self, user_id: str, token: str) -> None:
        """Forget the token, if it is this person's."""
        await self._database.fetch(_UNREGISTER, (user_id, token))
