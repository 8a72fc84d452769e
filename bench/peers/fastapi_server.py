"""FastAPI on uvicorn (uvloop, httptools) with asyncpg, after FastAPI's chapter on WebSockets.

One INSERT a message, a connection manager that sends to each socket of a room. No access log, no compression.
Address and database from PORT, PGHOST, PGUSER and PGDATABASE.
"""

import json
import os
import resource
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import jwt
import uvicorn
from fastapi import FastAPI, Header, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

SECRET = os.environ["SUPABASE_JWT_SECRET"]

_ROOMS = "SELECT conversation_id FROM conversation_participants WHERE user_id = $1"
_INSERT = "INSERT INTO messages (conversation_id, sender_id, text) VALUES ($1, $2, $3) RETURNING id, created_at"


class ConnectionManager:
    """Who is in which room."""

    def __init__(self) -> None:
        self.subscribers: set[WebSocket] = set()
        self.rooms: dict[str, set[WebSocket]] = defaultdict(set)

    async def broadcast(self, text: str, sockets: set[WebSocket], but: WebSocket | None = None) -> None:
        """Send a text to many."""
        for socket in list(sockets):
            if socket is not but:
                try:
                    await socket.send_text(text)
                except (WebSocketDisconnect, RuntimeError):
                    sockets.discard(socket)


manager = ConnectionManager()


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Keep a pool."""
    async with asyncpg.create_pool(min_size=16, max_size=16) as pool:
        application.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


class NewMessage(BaseModel):
    """The body of a REST send."""

    text: str
    clientMessageId: str  # noqa: N815


def user_of(token: str) -> str:
    """Return whose token it is."""
    return jwt.decode(token, SECRET, algorithms=["HS256"], audience="authenticated")["sub"]


async def persist(conversation_id: str, sender_id: str, text: str, key: str) -> dict[str, Any]:
    """Store a message; return its frame."""
    row = await app.state.pool.fetchrow(_INSERT, conversation_id, sender_id, text)
    return {
        "type": "message.new",
        "conversationId": conversation_id,
        "messageId": str(row["id"]),
        "senderId": sender_id,
        "text": text,
        "timestamp": row["created_at"].isoformat(),
        "status": "sent",
        "clientMessageId": key,
    }


@app.websocket("/events/subscribe")
async def events(socket: WebSocket) -> None:
    """The public stream."""
    await socket.accept()
    await socket.send_json({"type": "connection", "message": "Connected to BountyExpo realtime events"})
    manager.subscribers.add(socket)
    try:
        while True:
            event = await socket.receive_json()
            frame = {
                "type": "bounty.status",
                "id": event["id"],
                "status": event["status"],
                "timestamp": datetime.now(UTC).isoformat(),
            }
            await manager.broadcast(json.dumps(frame), manager.subscribers)
    except WebSocketDisconnect:
        manager.subscribers.discard(socket)


@app.websocket("/messages/subscribe")
async def messages(socket: WebSocket, token: str) -> None:
    """One person's socket."""
    await socket.accept()
    try:
        user_id = user_of(token)
    except jwt.InvalidTokenError:
        await socket.close(4401)
        return
    conversations = {str(row[0]) for row in await app.state.pool.fetch(_ROOMS, user_id)}
    for conversation_id in conversations:
        manager.rooms[conversation_id].add(socket)
    await socket.send_json(
        {
            "type": "connected",
            "message": "Connected to BountyExpo messaging",
            "userId": user_id,
            "conversationIds": list(conversations),
            "connectionId": str(uuid.uuid4()),
        }
    )
    try:
        while True:
            frame = await socket.receive_json()
            conversation_id = frame["conversationId"]
            if conversation_id not in conversations:
                await socket.send_json({"type": "error", "code": "NOT_PARTICIPANT"})
                continue
            new = await persist(conversation_id, user_id, frame["text"], frame["clientMessageId"])
            await socket.send_json({**new, "type": "message.ack"})
            await manager.broadcast(json.dumps(new), manager.rooms[conversation_id], but=socket)
    except WebSocketDisconnect:
        for conversation_id in conversations:
            manager.rooms[conversation_id].discard(socket)


@app.post("/api/conversations/{conversation_id}/messages", status_code=201)
async def send(conversation_id: str, body: NewMessage, authorization: str = Header()) -> dict[str, Any]:
    """Persist and tell."""
    user_id = user_of(authorization.removeprefix("Bearer "))
    new = await persist(conversation_id, user_id, body.text, body.clientMessageId)
    await manager.broadcast(json.dumps(new), manager.rooms[conversation_id])
    return {"message": new}


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        ws=os.environ.get("UVICORN_WS", "auto"),
        ws_per_message_deflate=False,
        backlog=4096,
        access_log=False,
        log_level="warning",
    )
