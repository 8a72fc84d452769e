"""People: their handles, made on their first visit."""

from cachetools import TTLCache

from protocol.codes import AppError
from storage.batcher import Batcher
from storage.database import BadData, Database, Statement, array

# A profile that was there is taken for there this long; so a new handle shows with a minute's delay at most.
_KNOWN_FOR_S, _KNOWN_MOST = 60, 10_000

# Each try ends one collision of handles; there are three forms of a handle, and other processes that make them too.
_TRIES = 5

# A handle that is taken gets the id's first eight characters; where somebody has taken that on purpose too, a random
# tail. Two newcomers with one handle in one batch: the second is left out, and gets its own on the next run.
_ENSURE = Statement(
    "ensure_profiles",
    ("uuid[]", "text[]"),
    """
    WITH input AS (
        SELECT DISTINCT ON (id) * FROM unnest($1, $2) AS i (id, handle)
    ), made AS (
        INSERT INTO profiles (id, username)
        SELECT i.id, CASE
            WHEN NOT EXISTS (SELECT FROM profiles t WHERE t.username = i.handle) THEN i.handle
            WHEN NOT EXISTS (SELECT FROM profiles t WHERE t.username = i.handle || '_' || left(i.id::text, 8))
                THEN i.handle || '_' || left(i.id::text, 8)
            ELSE i.handle || '_' || gen_random_uuid() END
        FROM input i WHERE NOT EXISTS (SELECT FROM profiles p WHERE p.id = i.id)
        ON CONFLICT DO NOTHING RETURNING id, username
    )
    SELECT i.id, coalesce(p.username, m.username)
    FROM input i LEFT JOIN profiles p ON p.id = i.id LEFT JOIN made m ON m.id = i.id
    """,
    urgent=True,
)
_BY_HANDLE = Statement(
    "profile_by_handle", ("text",), "SELECT id FROM profiles WHERE username = $1 LIMIT 1", urgent=True
)


class Profiles:
    """Profiles by id."""

    def __init__(self, database: Database, *, deadline_s: float) -> None:
        self._database = database
        self._lane: Batcher[tuple[str, str], str] = Batcher(self._ensure, deadline_s=deadline_s)
        self._known: TTLCache[str, str] = TTLCache(_KNOWN_MOST, _KNOWN_FOR_S)

    async def ensure(self, user_id: str, wanted_handle: str) -> str:
        """Return the user's handle; a user without a profile gets one, with ``wanted_handle`` if it is free."""
        handle = self._known.get(user_id)
        if handle is None:
            handle = self._known[user_id] = await self._lane.submit((user_id, wanted_handle))
        return handle

    async def by_handle(self, handle: str) -> str | None:
        """Return the id of the profile with this handle."""
        rows = await self._database.fetch(_BY_HANDLE, (handle,))
        return rows[0][0] if rows else None

    async def _ensure(self, batch: list[tuple[str, str]]) -> list[str | AppError]:
        handles: dict[str, str] = {}
        missing = dict(batch)
        for _ in range(_TRIES):
            rows = await self._database.fetch(_ENSURE, (array(missing.keys()), array(missing.values())))
            handles.update((user_id, handle) for user_id, handle in rows if handle is not None)
            missing = {user_id: handle for user_id, handle in missing.items() if user_id not in handles}
            if not missing:
                return [handles[user_id] for user_id, _ in batch]
        raise BadData("profiles are refused in silence")
