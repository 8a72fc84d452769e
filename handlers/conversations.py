"""Conversations and their messages over REST."""

from handlers.operation import operation
from handlers.rest import RestHandler
from protocol.answers import Conversations, CountedPagination, Done, Marked, Messages, OneConversation, OneMessage
from protocol.codes import AppError, ErrorCode, not_participant
from protocol.inbound import MarkMessages, NewConversation, NewMessage, SetTyping
from protocol.outbound import Message, new_id, timestamp
from protocol.queries import HistoryQuery, IdempotencyKey, OwnConnection
from storage.message_writer import Draft

_MAX_KEY_CHARS = 64


class ConversationsHandler(RestHandler):
    """``/api/conversations``"""

    @operation(answer=Conversations)
    async def get(self) -> None:
        """List the user's conversations, latest first."""
        conversations = await self.context.stored_conversations.visible_to(await self.known_user())
        self.answer(Conversations(conversations=conversations))

    @operation(
        answer=OneConversation,
        statuses=(201, 200),
        body=NewConversation,
        errors=(ErrorCode.UNKNOWN_USER, ErrorCode.NOT_FOUND),
    )
    async def post(self) -> None:
        """Make a conversation, or find the one that two people have."""
        body = self.body(NewConversation)
        user_id = await self.known_user()
        others = set(body.participant_ids) - {user_id}
        if not others:
            raise AppError(ErrorCode.INVALID_REQUEST, "`participantIds` is wrong: expected somebody besides yourself.")
        conversation, is_new = await self.context.conversations.create(
            user_id, sorted(others), body.bounty_id, is_group=body.is_group or len(others) > 1
        )
        conversation.existing = not is_new
        self.answer(OneConversation(conversation=conversation), 201 if is_new else 200)


class ConversationHandler(RestHandler):
    """``/api/conversations/{id}``"""

    @operation(answer=None, statuses=(204,), errors=(ErrorCode.NOT_PARTICIPANT,))
    async def delete(self, conversation: str) -> None:
        """Hide it from the user until its next message."""
        conversation_id = self.id_of(conversation, "id")
        await self.context.stored_conversations.hide(conversation_id, self.user_id)
        self.set_status(204)


class MessagesHandler(RestHandler):
    """``/api/conversations/{id}/messages``"""

    @operation(answer=Messages, query=HistoryQuery, errors=(ErrorCode.NOT_PARTICIPANT,))
    async def get(self, conversation: str) -> None:
        """Return a page of history."""
        conversation_id, query = self.id_of(conversation, "id"), self.query(HistoryQuery)
        page, limit, store = query.page, query.limit, self.context.stored_messages
        if query.before is not None:
            messages, total = await store.before(conversation_id, self.user_id, query.before, limit)
            has_more = bool(messages) and messages[0].seq > 1
        elif query.after is not None:
            messages, total = await store.after(conversation_id, self.user_id, query.after, limit)
            has_more = bool(messages) and messages[-1].seq < total
        else:
            messages, total = await store.page(conversation_id, self.user_id, page, limit)
            has_more = total > page * limit
        pagination = CountedPagination(page=page, limit=limit, total=total, has_more=has_more)
        self.answer(Messages(messages=messages, pagination=pagination))

    @operation(
        answer=OneMessage,
        statuses=(201,),
        body=NewMessage,
        headers={"Idempotency-Key": IdempotencyKey, "X-Connection-Id": OwnConnection},
        errors=(ErrorCode.NOT_PARTICIPANT, ErrorCode.UNKNOWN_MESSAGE, ErrorCode.INVALID_TEXT),
    )
    async def post(self, conversation: str) -> None:
        """Send a message."""
        conversation_id = self.id_of(conversation, "id")
        body = self.body(NewMessage)
        user_id = self.user_id
        assert self.identity is not None
        handle = await self.context.profiles.ensure(user_id, self.identity.wanted_handle)
        draft = Draft(
            sender_id=user_id,
            conversation_id=conversation_id,
            client_message_id=body.client_message_id or self._idempotency_key() or new_id(),
            text=body.text,
            reply_to=body.reply_to,
            media_url=body.media_url,
            received_at=self.started_at,
        )
        stored = await self.context.messaging.send_from_rest(draft, self._connection_id())
        if stored.duplicate:
            pages = await self.context.stored_messages.after(stored.conversation_id, user_id, stored.seq - 1, 1)
            self.answer(OneMessage(message=pages[0][0]), 201)
            return
        created_at = timestamp(stored.created_at)
        message = Message(
            id=stored.message_id,
            conversation_id=conversation_id,
            sender_id=user_id,
            sender_handle=handle,
            text=body.text,
            created_at=created_at,
            updated_at=created_at,
            media_url=body.media_url,
            reply_to=body.reply_to,
            is_pinned=False,
            status="sent",
            seq=stored.seq,
        )
        self.answer(OneMessage(message=message), 201)

    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not (0 < len(key) <= _MAX_KEY_CHARS and key.isprintable()):
            reason = f"`Idempotency-Key` is wrong: expected 1 to {_MAX_KEY_CHARS} printable characters."
            raise AppError(ErrorCode.INVALID_REQUEST, reason)
        return key

    def _connection_id(self) -> str | None:
        """Return the id in X-Connection-Id, if it is an open socket of this user's."""
        connection = self.context.registry.connections.get(self.request.headers.get("X-Connection-Id", "").lower())
        return connection.id if connection is not None and connection.user_id == self.user_id else None


class MessageStatusHandler(RestHandler):
    """``/api/conversations/{id}/messages/status``"""

    @operation(answer=Marked, body=MarkMessages, errors=(ErrorCode.NOT_PARTICIPANT,))
    async def post(self, conversation: str) -> None:
        """Mark messages delivered or read."""
        conversation_id = self.id_of(conversation, "id")
        body = self.body(MarkMessages)
        count = await self.context.receipts.mark_ids(
            conversation_id, self.user_id, list(body.message_ids), is_read=body.status == "read"
        )
        self.answer(Marked(updated_count=count))


class TypingHandler(RestHandler):
    """``/api/conversations/{id}/typing``"""

    @operation(answer=Done, body=SetTyping, errors=(ErrorCode.NOT_PARTICIPANT,))
    async def post(self, conversation: str) -> None:
        """Tell the others that the user started or stopped typing."""
        conversation_id = self.id_of(conversation, "id")
        body = self.body(SetTyping)
        participants = await self.context.stored_conversations.participants([conversation_id])
        if self.user_id not in participants[conversation_id]:
            raise not_participant(conversation_id)
        self.context.typing.set(self.user_id, conversation_id, body.is_typing, None)
        self.answer(Done())
