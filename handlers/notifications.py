"""Notifications and preferences over REST."""

from handlers.rest import RestHandler
from protocol.codes import AppError, ErrorCode
from protocol.notifications import ChangePreferences, MarkNotifications

_MAX_PAGE_SIZE = 200
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class NotificationsHandler(RestHandler):
    """``/api/notifications``"""

    async def get(self) -> None:
        """Return a page, newest first; ``before`` is the id of the last one of the page before."""
        unread = _TRUTH.get(self.get_query_argument("unread", "false"))
        if unread is None:
            raise AppError(ErrorCode.INVALID_REQUEST, "`unread` is wrong: expected true or false.")
        limit = self.number("limit", 50, 1, _MAX_PAGE_SIZE)
        given = self.get_query_argument("before", None)
        before = None if given is None else self.id_of(given, "before")
        store = self.context.stored_notifications
        notifications, has_more = await store.page(self.user_id, before, limit, unread=unread)
        self.answer(
            {
                "notifications": notifications,
                "unreadCount": await store.count_unread(self.user_id),
                "pagination": {"limit": limit, "hasMore": has_more},
            }
        )


class NotificationsReadHandler(RestHandler):
    """``/api/notifications/read``"""

    async def post(self) -> None:
        """Mark read; all of the user's sockets hear of it, at every server, from the database."""
        body = self.body(MarkNotifications)
        ids = None if body.ids is None else list(body.ids)
        count = await self.context.stored_notifications.mark_read(self.user_id, ids)
        self.context.notifications.changed(self.user_id)
        self.answer({"success": True, "updatedCount": count})


class PreferencesHandler(RestHandler):
    """``/api/notification-preferences``"""

    async def get(self) -> None:
        """Return what the user wants to be told of while away."""
        self.answer(await self.context.stored_notifications.preferences(self.user_id))

    async def put(self) -> None:
        """Change what is given, and return it all."""
        change = self.body(ChangePreferences)
        store = self.context.stored_notifications
        await store.change(await self.known_user(), change)
        self.answer(await store.preferences(self.user_id))
