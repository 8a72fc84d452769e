"""The dashboard's data, for administrators only. Its page is a file like any other and holds none."""

from typing import Any

from connections.connection import Connection
from connections.registry import DASHBOARD
from handlers.messages import expiry_of
from handlers.operation import operation
from handlers.rest import RestHandler
from handlers.socket import SocketHandler
from protocol.codes import AppError, CloseCode, ErrorCode
from protocol.dashboard import History
from protocol.inbound import FrameDecoder, Ping
from protocol.outbound import Pong
from protocol.queries import SpanQuery, TokenQuery
from protocol.sockets import DashboardServerFrame


class DashboardHandler(SocketHandler):
    """``/dashboard/stream``: one update a second."""

    decoder = FrameDecoder[Any](Ping)
    takes, sends = Ping, DashboardServerFrame
    query_type = TokenQuery
    answers = {Ping: Pong}
    endpoint = DASHBOARD
    public = False

    async def prepare(self) -> None:
        """Know who is connecting; whoever is no administrator is told so, and closed."""
        await super().prepare()
        if self._refusal is None and self.identity is not None and not self.identity.is_admin:
            self._refusal = _not_for(CloseCode.UNAUTHORIZED)

    async def opened(self, connection: Connection) -> None:
        """Greet; the updates come by themselves, until the token expires."""
        assert self.identity is not None
        connection.expiry = expiry_of(self.identity)
        self.context.live.greet(connection)

    actions = {Ping: SocketHandler.answer_ping}


class HistoryHandler(RestHandler):
    """``GET /dashboard/history``"""

    @operation(answer=History, query=SpanQuery, errors=(ErrorCode.FORBIDDEN,))
    async def get(self) -> None:
        """Return the history up to the last full minute, to an administrator."""
        if self.identity is None or not self.identity.is_admin:
            raise _not_for()
        self.answer(await self.context.analytics.history(self.query(SpanQuery).span))


def _not_for(close: CloseCode | None = None) -> AppError:
    return AppError(ErrorCode.FORBIDDEN, "This is for administrators only.", close=close)
