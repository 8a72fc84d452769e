"""What needs nothing but the server's own dependencies: tokens, waiting, ports. ``deploy/trial`` has no others."""

import asyncio
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import jwt

SECRET = "a secret that only the tests know, long enough"
# How long what has to come may take: far longer than it does, so that only a fault is a failure and no busy machine is.
SOON_S = 15.0
# Below what Linux gives to outgoing connections (32768 and up, net.ipv4.ip_local_port_range).
_PORTS = range(20_000, 32_000)
# Not the random numbers that are the same in every process of a run.
_dice = random.SystemRandom()


def token(user_id: str | None, *, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token as Supabase makes them; a claim given as None is left out."""
    now = int(time.time())
    payload = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600, **claims}
    return jwt.encode({key: value for key, value in payload.items() if value is not None}, secret, algorithm=algorithm)


async def until(condition: Callable[[], Any], timeout: float = SOON_S) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


def free_port() -> int:
    """Return a port that nobody has, for a server that goes away and comes back there.

    One that the kernel picks might be picked for somebody's outgoing connection while the server is away.
    """
    while True:
        with socket.socket() as probe:
            port = _dice.choice(_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
