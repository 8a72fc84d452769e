"""What needs nothing but the server's own dependencies: tokens, and waiting. ``deploy/trial`` has no others."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import jwt

SECRET = "a secret that only the tests know, long enough"


def token(user_id: str | None, *, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token as Supabase makes them; a claim given as None is left out."""
    now = int(time.time())
    payload = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + 3600, **claims}
    return jwt.encode({key: value for key, value in payload.items() if value is not None}, secret, algorithm=algorithm)


async def until(condition: Callable[[], Any], timeout: float = 5.0) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)
