"""Notifications and preferences over REST."""

from handlers.operation import operation
from handlers.rest import RestHandler
from protocol.answers import LimitedPagination, Notifications, NotificationsMarked
from protocol.codes import ErrorCode
from protocol.notifications import ChangePreferences, MarkNotifications, Preferences
from protocol.queries import NotificationsQuery


class NotificationsHandler(RestHandler):
    """``/api/notifications``"""

    @operation(answer=Notifications, query=NotificationsQuery)
    async def get(self) -> None:
        """Return a page of notifications, newest first."""
        query, store = self.query(NotificationsQuery), self.context.stored_notifications
        notifications, has_more = await store.page(
            self.user_id, query.before, query.limit, unread=query.unread == "true"
        )
        self.answer(
            Notifications(
                notifications=notifications,
                unread_count=await store.count_unread(self.user_id),
                pagination=LimitedPagination(limit=query.limit, has_more=has_more),
            )
        )


class NotificationsReadHandler(RestHandler):
    """``/api/notifications/read``"""

    @operation(answer=NotificationsMarked, body=MarkNotifications)
    async def post(self) -> None:
        """Mark notifications read; all of the user's sockets hear of it."""
        body = self.body(MarkNotifications)
        ids = None if body.ids is None else list(body.ids)
        count = await self.context.stored_notifications.mark_read(self.user_id, ids)
        self.context.notifications.changed(self.user_id)
        self.answer(NotificationsMarked(updated_count=count))


class PreferencesHandler(RestHandler):
    """``/api/notification-preferences``"""

    @operation(answer=Preferences)
    async def get(self) -> None:
        """Return what the user wants to be told of while away."""
        self.answer(await self.context.stored_notifications.preferences(self.user_id))

    @operation(answer=Preferences, body=ChangePreferences, errors=(ErrorCode.NOT_PARTICIPANT,))
    async def put(self) -> None:
        """Change what is given, and return it all."""
        change = self.body(ChangePreferences)
        store = self.context.stored_notifications
        await store.change(await self.known_user(), change)
        self.answer(await store.preferences(self.user_id))
