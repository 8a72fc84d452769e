"""In-app notifications, live: every device of a person is told what it was not told yet, and what was read.

Nothing is sent because something was written; it is sent because the database differs from what a socket was told.
So it does not matter who wrote, or which server, or whether a wake-up was lost before the next one.
"""

import asyncio
import contextlib

import structlog

from connections.connection import Connection
from connections.registry import Registry
from protocol.codes import AppError
from protocol.notifications import Notification, NotificationNew, NotificationRead
from protocol.outbound import encode, timestamp
from storage import notifications

log = structlog.get_logger()

# The newest unread of a person; older ones come when these are read, and over REST.
REPLAY_MAX = 200
# People looked up with one query.
_PEOPLE_A_QUERY = 50
_RETRY_S = 0.5
_NOTHING: frozenset[str] = frozenset()


class Notifications:
    """Tells people's sockets of their notifications."""

    def __init__(self, store: notifications.Notifications, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        # What each socket was told and has not been told to be read.
        self._told: dict[Connection, frozenset[str]] = {}
        # Sockets that were told nothing yet: whether they want what was there when they came.
        self._new: dict[Connection, bool] = {}
        # Sockets that are not ready, and something has changed for them meanwhile.
        self._early: set[Connection] = set()
        # What was there when a socket came, of those that could not take all of it at once.
        self._replaying: dict[Connection, frozenset[str]] = {}
        self._woken: set[str] = set()
        self._telling: asyncio.Task[None] | None = None

    def arrived(self, connection: Connection, user_id: str, *, has_unread: bool, replay: bool) -> None:
        """A socket is ready; what its user has not read is sent, or passed over."""
        if has_unread:
            self._new[connection] = replay
        else:
            self._told[connection] = _NOTHING
        if has_unread or connection in self._early:
            self.changed(user_id)
        self._early.discard(connection)

    def gone(self, connection: Connection) -> None:
        """A socket has closed."""
        self._told.pop(connection, None)
        self._new.pop(connection, None)
        self._early.discard(connection)
        self._replaying.pop(connection, None)

    def changed(self, user_id: str | None) -> None:
        """What this person has not read has changed, or (None) anybody's may have, unnoticed."""
        if user_id is None:
            self._woken.update(self._registry.people)
        elif user_id in self._registry.people:
            self._woken.add(user_id)
        if self._woken and self._telling is None:
            self._telling = asyncio.create_task(self._keep_telling())

    async def stop(self) -> None:
        """End what goes on in the background."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling

    async def _keep_telling(self) -> None:
        try:
            while self._woken:
                people = {self._woken.pop() for _ in range(min(len(self._woken), _PEOPLE_A_QUERY))}
                try:
                    await self._tell(people)
                except AppError:
                    self._woken |= people
                    await asyncio.sleep(_RETRY_S)
                except Exception:  # the others are told all the same
                    log.exception("notifications.telling_failed")
        finally:
            self._telling = None

    async def _tell(self, user_ids: set[str]) -> None:
        owed: dict[str, list[Notification]] = {}
        for each in await self._store.owed(user_ids, REPLAY_MAX):
            owed.setdefault(each.user_id, []).append(each.notification)
        known = set().union(*(self._told.get(connection, _NOTHING) for connection in self._sockets(user_ids)))
        unread = await self._store.still_unread(known) if known else set()
        for user_id in user_ids:
            for connection in self._sockets([user_id]):
                self._bring_up(connection, owed.get(user_id, []), known - unread)

    def _sockets(self, user_ids: "set[str] | list[str]") -> list[Connection]:
        return [connection for connection in self._registry.connections_of(user_ids) if not connection.closing]

    def _bring_up(self, connection: Connection, owed: list[Notification], read: set[str]) -> None:
        """Tell one socket what it does not know of ``owed`` and ``read``; one that lags behind the rest in a moment."""
        told = self._told.get(connection)
        if told is None:
            if connection not in self._new:
                self._early.add(connection)
                return
            there = frozenset(notification.id for notification in owed)
            if not self._new.pop(connection):
                self._told[connection] = there
                return
            self._replaying[connection], told = there, _NOTHING
        if not told.isdisjoint(read):
            connection.send(encode(NotificationRead(ids=sorted(told & read), timestamp=timestamp())))
        fresh = [notification for notification in owed if notification.id not in told]
        replaying = self._replaying.get(connection, _NOTHING)
        sent = len(fresh)
        for place, notification in enumerate(fresh):
            if connection.lagging:
                sent = place
                break
            connection.send(_frame(notification, replayed=notification.id in replaying))
        self._told[connection] = (told - read) | {notification.id for notification in fresh[:sent]}
        if sent < len(fresh):
            asyncio.get_running_loop().call_later(_RETRY_S, self.changed, connection.user_id)
        else:
            self._replaying.pop(connection, None)


def _frame(notification: Notification, *, replayed: bool) -> bytes:
    frame = NotificationNew(
        id=notification.id,
        notification_type=notification.kind,
        title=notification.title,
        body=notification.body,
        data=notification.data,
        timestamp=notification.created_at,
    )
    if replayed:
        frame.replayed = True
    return encode(frame)
