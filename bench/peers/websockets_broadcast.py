"""The websockets library's ``broadcast``, after its documentation's chapter on broadcasting. Compression off.

Address from PORT.
"""

import asyncio
import json
import os
import resource
from datetime import UTC, datetime

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

CONNECTIONS: set[ServerConnection] = set()


async def handler(websocket: ServerConnection) -> None:
    """Subscribe; a frame from anybody is published to all."""
    CONNECTIONS.add(websocket)
    try:
        await websocket.send(json.dumps({"type": "connection", "message": "Connected to BountyExpo realtime events"}))
        async for message in websocket:
            event = json.loads(message)
            frame = {
                "type": "bounty.status",
                "id": event["id"],
                "status": event["status"],
                "timestamp": datetime.now(UTC).isoformat(),
            }
            broadcast(CONNECTIONS, json.dumps(frame))
    finally:
        CONNECTIONS.discard(websocket)


async def main() -> None:
    """Serve."""
    async with serve(handler, "127.0.0.1", int(os.environ["PORT"]), compression=None, backlog=4096):
        await asyncio.Event().wait()


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
uvloop.run(main())
