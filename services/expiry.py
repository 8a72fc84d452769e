"""Long-lived sockets and short-lived tokens: says when a token is about to expire, and closes when it has."""

import asyncio
import time

from connections.registry import Registry
from protocol.codes import CloseCode
from protocol.outbound import AuthExpiring, encode, error_frame
from services.auth import auth_failed

# The client hears this long before.
NOTICE_S = 60.0
_LOOK_S = 0.5


class TokenExpiry:
    """One sweep over all connections instead of a timer each. The clock is monotonic."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        for connection in list(self._registry.connections.values()):
            expiry = connection.expiry
            if expiry is None or now < expiry.at - NOTICE_S or connection.closing:
                continue
            if now >= expiry.at:
                connection.send_now(error_frame(auth_failed()))
                connection.close(CloseCode.UNAUTHORIZED)
            elif not expiry.told:
                connection.expiry = expiry._replace(told=True)
                connection.send_now(encode(AuthExpiring(expires_at=expiry.text)))
