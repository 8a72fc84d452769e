"""A healthy client beside the run, as a process of its own: how long the server's loop takes to answer a ping.

``python -m chaos.pinger <directory> <port>`` writes ``<monotonic seconds> <milliseconds>`` a line to
``<directory>/pings``. What the kernel's scheduler took from either process meanwhile is subtracted (Linux's
``schedstat``): what is left is time in which the loop had the processor, or blocked, and did not answer.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from tornado.websocket import websocket_connect

_PAUSE_S = 0.05
_PATIENCE_S = 5.0


def _waited_s(pid: int) -> float:
    """Return how long a process has waited for a processor so far; 0 where that can't be known."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


async def ping(directory: Path, port: int) -> None:
    """Ping until the process is ended, connecting again whenever the connection is lost."""
    me = int(Path("/proc/self").resolve().name)
    with (directory / "pings").open("w", buffering=1) as out:
        while True:
            try:
                socket = await websocket_connect(f"ws://127.0.0.1:{port}/events/subscribe", connect_timeout=2)
                server = int((directory / "server.pid").read_text())
                while True:
                    stolen_s = -_waited_s(server) - _waited_s(me)
                    began = time.monotonic()
                    await socket.write_message(json.dumps({"type": "ping", "ts": began}))
                    while True:
                        message = await asyncio.wait_for(socket.read_message(), _PATIENCE_S)
                        if message is None:
                            raise ConnectionError
                        frame = json.loads(message)
                        if frame["type"] == "pong" and frame["ts"] == began:
                            break
                    took_s = time.monotonic() - began
                    stolen_s += _waited_s(server) + _waited_s(me)
                    out.write(f"{began:.3f} {max(0.0, took_s - max(0.0, stolen_s)) * 1000:.1f} {took_s * 1000:.1f}\n")
                    await asyncio.sleep(_PAUSE_S)
            except Exception:  # the server is away
                await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(ping(Path(sys.argv[1]), int(sys.argv[2])))
