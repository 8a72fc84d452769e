"""``/messages/subscribe``: the messaging socket. Each frame is one method; the work is done by services."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from connections.connection import Connection, Expiry
from handlers.socket import SocketHandler
from protocol import inbound, outbound
from protocol.codes import AppError, ErrorCode, not_participant
from protocol.inbound import FrameDecoder, MessagesFrame
from protocol.outbound import encode, timestamp
from protocol.queries import MessagesQuery
from protocol.sockets import MessagesServerFrame
from services.auth import Identity, auth_required
from storage.message_writer import Draft, Stored
from storage.receipts import Mark


class MessagesHandler(SocketHandler):
    """One device of one person."""

    decoder = FrameDecoder[Any](MessagesFrame)
    takes, sends = MessagesFrame, MessagesServerFrame
    query_type = MessagesQuery
    answers = {
        inbound.Ping: outbound.Pong,
        inbound.Join: outbound.Joined,
        inbound.Leave: outbound.Left,
        inbound.MessageSend: outbound.MessageAck,
        inbound.Sync: outbound.SyncComplete,
        inbound.AuthRefresh: outbound.AuthRefreshed,
    }
    endpoint = "messages"
    public = False
    _replaying: asyncio.Task[None] | None = None

    async def opened(self, connection: Connection) -> None:
        """Put the user into their rooms, greet, and send what they missed."""
        identity, context = self.identity, self.context
        if identity is None:
            raise auth_required()
        user_id = identity.user
        connection.hold()
        await context.profiles.ensure(user_id, identity.wanted_handle)
        if connection.closing:
            return
        person, memberships = await context.conversations.arrive(connection, user_id)
        if connection.closing:
            context.presence.departed(user_id)
            return
        connection.expiry = expiry_of(identity)
        connection.greet(
            encode(
                outbound.Connected(
                    user_id=user_id,
                    conversation_ids=sorted(person.conversation_ids),
                    timestamp=timestamp(),
                    connection_id=connection.id,
                    online_user_ids=context.presence.online_with(person),
                    heartbeat_interval_ms=int(context.settings.heartbeat_interval_s * 1000),
                    expires_at=connection.expiry.text,
                )
            )
        )
        context.presence.arrived(person)
        context.analytics.arrived(user_id)
        replay = self.get_query_argument("replay", "1") != "0"
        context.notifications.arrived(connection, user_id, has_unread=memberships.notified, replay=replay)
        if not replay:
            connection.release()
        elif not memberships.behind:
            context.replay.complete(connection)
        else:
            # What the client sends now is acted on beside it.
            queue = context.replay.offline_queue(connection, user_id)
            self._replaying = asyncio.create_task(queue)
            self._replaying.add_done_callback(self.report)

    def gone(self, connection: Connection) -> None:
        """Typing and notifications end with the socket, presence after its grace."""
        if connection.user_id is not None:
            self.context.typing.stop_all(connection)
            self.context.notifications.gone(connection)
            self.context.presence.departed(connection.user_id)

    def join(self, frame: inbound.Join) -> None:
        """Give this socket the conversation's typing and presence again."""
        self._check_participant(frame.conversation_id)
        if self.socket.left_rooms is not None:
            self.socket.left_rooms.discard(frame.conversation_id)
        self.socket.send_now(encode(outbound.Joined(conversation_id=frame.conversation_id)))

    def leave(self, frame: inbound.Leave) -> None:
        """Spare this socket the conversation's typing and presence."""
        self._check_participant(frame.conversation_id)
        if self.socket.left_rooms is None:
            self.socket.left_rooms = set()
        self.socket.left_rooms.add(frame.conversation_id)
        self.socket.send_now(encode(outbound.Left(conversation_id=frame.conversation_id)))

    def typing(self, frame: inbound.Typing) -> None:
        """Tell the others that the user started or stopped typing."""
        self._check_participant(frame.conversation_id)
        if not self.socket.closing:  # it may have waited here past the close, which has ended all typing
            self.context.typing.set(self.user_id, frame.conversation_id, frame.is_typing, self.socket)

    def send_message(self, frame: inbound.MessageSend) -> "asyncio.Future[Stored]":
        """Persist, ack, tell."""
        draft = Draft(
            sender_id=self.user_id,
            conversation_id=frame.conversation_id,
            client_message_id=frame.client_message_id,
            text=frame.text,
            reply_to=frame.reply_to,
            media_url=frame.media_url,
            received_at=self.taken_in_at,
        )
        return self.context.messaging.send_from_socket(draft, self.socket)

    async def mark(self, frame: inbound.MessageDelivered | inbound.MessageRead) -> None:
        """Move a cursor."""
        await self.context.receipts.mark(
            Mark(
                user_id=self.user_id,
                conversation_id=frame.conversation_id,
                message_id=frame.message_id,
                seq=frame.seq,
                is_read=isinstance(frame, inbound.MessageRead),
            )
        )

    async def refresh(self, frame: inbound.AuthRefresh) -> None:
        """Go on with a fresh token of the same user; any other leaves things as they are."""
        try:
            identity = await self.context.authenticator.identify(frame.token)
        except AppError as error:
            raise AppError(error.code, error.message, retry_after_ms=error.retry_after_ms) from None
        if identity.user_id != self.user_id:
            raise AppError(ErrorCode.AUTH_FAILED, "The token belongs to another user.")
        self.socket.expiry = expiry = expiry_of(identity)
        self.socket.send_now(encode(outbound.AuthRefreshed(expires_at=expiry.text)))

    async def sync(self, frame: inbound.Sync) -> None:
        """Send what is newer than the client has."""
        if self._replaying is not None:
            await asyncio.wait([self._replaying])
        connection = self.socket
        if connection.closing:
            return
        connection.hold()
        try:
            await self.context.replay.sync(connection, self.user_id, frame.positions)
        finally:
            if connection.holding:
                connection.release()

    @property
    def socket(self) -> Connection:
        """This socket."""
        assert self.connection is not None
        return self.connection

    @property
    def user_id(self) -> str:
        """Whose socket it is."""
        assert self.connection is not None and self.connection.user_id is not None
        return self.connection.user_id

    def _check_participant(self, conversation_id: str) -> None:
        person = self.context.registry.people.get(self.user_id)
        if person is None or conversation_id not in person.conversation_ids:
            raise not_participant(conversation_id)

    actions = {
        inbound.Ping: SocketHandler.answer_ping,
        inbound.Join: join,
        inbound.Leave: leave,
        inbound.Typing: typing,
        inbound.MessageSend: send_message,
        inbound.MessageDelivered: mark,
        inbound.MessageRead: mark,
        inbound.Sync: sync,
        inbound.AuthRefresh: refresh,
    }


def expiry_of(identity: Identity) -> Expiry:
    """Return when the token expires, by the monotonic clock: the wall clock may be set while the socket is open."""
    left_s = identity.expires_at - time.time()
    return Expiry(time.monotonic() + left_s, timestamp(datetime.fromtimestamp(identity.expires_at, UTC)), told=False)
