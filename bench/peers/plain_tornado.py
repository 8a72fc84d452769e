"""Plain Tornado: what one would write without this project. ``write_message`` a recipient, one INSERT a message.

momoko's ``Pool.execute`` for each message, rooms in a dict, JSON by the standard library.
Address and database from PORT, PGHOST, PGUSER and PGDATABASE.
"""

import asyncio
import json
import os
import resource
import uuid
from datetime import UTC, datetime

import jwt
import momoko
import psycopg2.extras
from tornado import ioloop, web, websocket

psycopg2.extras.register_uuid()
SECRET = os.environ["SUPABASE_JWT_SECRET"]

_ROOMS = "SELECT conversation_id::text FROM conversation_participants WHERE user_id = %s"
_INSERT = "INSERT INTO messages (conversation_id, sender_id, text) VALUES (%s, %s, %s) RETURNING id::text, created_at"

subscribers: set["EventsHandler"] = set()
rooms: dict[str, set["MessagesHandler"]] = {}


def user_of(token: str) -> str:
    """Return whose token it is."""
    return jwt.decode(token, SECRET, algorithms=["HS256"], audience="authenticated")["sub"]


async def persist(pool: momoko.Pool, conversation_id: str, sender_id: str, text: str, key: str) -> dict[str, str]:
    """Store a message; return its frame."""
    cursor = await pool.execute(_INSERT, (conversation_id, sender_id, text))
    message_id, created_at = cursor.fetchone()
    return {
        "type": "message.new",
        "conversationId": conversation_id,
        "messageId": message_id,
        "senderId": sender_id,
        "text": text,
        "timestamp": created_at.isoformat(),
        "status": "sent",
        "clientMessageId": key,
    }


class EventsHandler(websocket.WebSocketHandler):
    """The public stream."""

    def open(self) -> None:
        """Subscribe."""
        subscribers.add(self)
        self.write_message({"type": "connection", "message": "Connected to BountyExpo realtime events"})

    def on_message(self, message: str) -> None:
        """Publish to all."""
        event = json.loads(message)
        frame = json.dumps(
            {
                "type": "bounty.status",
                "id": event["id"],
                "status": event["status"],
                "timestamp": datetime.now(UTC).isoformat(),
            }
        )
        for subscriber in subscribers:
            subscriber.write_message(frame)

    def on_close(self) -> None:
        """Unsubscribe."""
        subscribers.discard(self)


class MessagesHandler(websocket.WebSocketHandler):
    """One person's socket."""

    def initialize(self, pool: momoko.Pool) -> None:
        """Take the pool."""
        self.pool = pool

    async def open(self) -> None:
        """Authenticate, and join the user's conversations."""
        self.conversations: list[str] = []
        try:
            self.user_id = user_of(self.get_query_argument("token"))
        except jwt.InvalidTokenError:
            self.close(4401)
            return
        cursor = await self.pool.execute(_ROOMS, (self.user_id,))
        self.conversations = [row[0] for row in cursor.fetchall()]
        for conversation_id in self.conversations:
            rooms.setdefault(conversation_id, set()).add(self)
        await self.write_message(
            {
                "type": "connected",
                "message": "Connected to BountyExpo messaging",
                "userId": self.user_id,
                "conversationIds": self.conversations,
                "connectionId": str(uuid.uuid4()),
            }
        )

    async def on_message(self, message: str) -> None:
        """Persist, ack, tell the others."""
        frame = json.loads(message)
        conversation_id = frame["conversationId"]
        if conversation_id not in self.conversations:
            await self.write_message({"type": "error", "code": "NOT_PARTICIPANT"})
            return
        new = await persist(self.pool, conversation_id, self.user_id, frame["text"], frame["clientMessageId"])
        self.write_message({**new, "type": "message.ack"})
        encoded = json.dumps(new)
        for other in rooms[conversation_id]:
            if other is not self:
                other.write_message(encoded)

    def on_close(self) -> None:
        """Leave."""
        for conversation_id in self.conversations:
            rooms[conversation_id].discard(self)


class RestHandler(web.RequestHandler):
    """``POST /api/conversations/{id}/messages``"""

    def initialize(self, pool: momoko.Pool) -> None:
        """Take the pool."""
        self.pool = pool

    async def post(self, conversation_id: str) -> None:
        """Persist and tell."""
        user_id = user_of(self.request.headers["Authorization"].removeprefix("Bearer "))
        body = json.loads(self.request.body)
        new = await persist(self.pool, conversation_id, user_id, body["text"], body["clientMessageId"])
        encoded = json.dumps(new)
        for other in rooms.get(conversation_id, ()):
            if other.user_id != user_id:
                other.write_message(encoded)
        self.set_status(201)
        self.finish({"message": new})


async def main() -> None:
    """Serve."""
    pool = momoko.Pool(dsn="", size=16, ioloop=ioloop.IOLoop.current())
    await pool.connect()
    application = web.Application(
        [
            (r"/events/subscribe", EventsHandler),
            (r"/messages/subscribe", MessagesHandler, {"pool": pool}),
            (r"/api/conversations/([^/]+)/messages", RestHandler, {"pool": pool}),
        ],
        log_function=lambda _handler: None,
    )
    application.listen(int(os.environ["PORT"]), "127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
asyncio.run(main())
