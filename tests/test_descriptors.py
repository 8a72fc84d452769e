"""Out of file descriptors: who is connected stays, newcomers are turned away, and nothing spins."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from tornado.websocket import websocket_connect

ALLOWED = 256


@pytest.fixture
def server(dsn: str) -> Iterator[tuple[psutil.Process, int]]:
    """A server process that may open only a few files, and its port."""
    root = Path(__file__).parent.parent
    settings = {"DATABASE_URL": dsn, "PORT": "0", "SUPABASE_JWT_SECRET": "x" * 40, "PATH": "/usr/bin:/bin"}
    command = f"ulimit -n {ALLOWED}; exec {sys.executable} server.py"
    with subprocess.Popen(
        ["bash", "-c", command], cwd=root, env=settings, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield psutil.Process(process.pid), int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()


async def test_a_flood_of_connections_leaves_the_server_at_work(server: tuple[psutil.Process, int]) -> None:
    """Connections past the limit are closed at once; the loop goes on, and takes newcomers when there is room."""
    process, port = server
    url = f"ws://127.0.0.1:{port}/events/subscribe"
    client = await websocket_connect(url)
    with ExitStack() as flood:
        for _ in range(2 * ALLOWED):
            flood.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(10):  # what it has to do for the flood may take a busy machine a while
            used = process.cpu_times().user
            await asyncio.sleep(0.3)
            if process.cpu_times().user - used < 0.15:
                break
        else:
            raise AssertionError("the loop spins")
        await client.write_message('{"type": "ping", "ts": 1}')
        assert "connection" in str(await client.read_message())
        assert "pong" in str(await client.read_message())
        assert process.num_fds() < ALLOWED
    newcomer = await websocket_connect(url)
    assert "connection" in str(await newcomer.read_message())
    client.close()
    newcomer.close()
    assert await client.read_message() is None
    assert await newcomer.read_message() is None
