"""The server under test: every message comes back as it was, through the same classes as those of real sockets."""

import contextlib
from collections.abc import AsyncIterator

from tornado import netutil
from tornado.httpserver import HTTPServer
from tornado.web import Application

from app import App
from connections.connection import Connection
from handlers.socket import SocketHandler
from protocol.outbound import text_frame
from settings import Settings

_BINARY = b"\x82"  # FIN and opcode 2 (RFC 6455, section 5.2)


class EchoHandler(SocketHandler):
    """Sends back what comes, as its kind."""

    endpoint = "echo"
    public = True
    actions = {}

    async def opened(self, connection: Connection) -> None:
        """Say nothing first."""

    def on_message(self, message: str | bytes) -> None:
        """Send it back."""
        if self.connection is None or self.connection.closing:
            return
        if isinstance(message, bytes):
            self.connection.send(_BINARY + text_frame(message)[1:])
        else:
            self.connection.send(text_frame(message.encode()))


@contextlib.asynccontextmanager
async def echo_server(max_frame_bytes: int = Settings().max_frame_bytes) -> AsyncIterator[int]:
    """Serve on a free port of loopback, which is given; without a database."""
    waiting = max(Settings().max_send_queue_bytes, 2 * max_frame_bytes)
    settings = Settings(max_frame_bytes=max_frame_bytes, max_send_queue_bytes=waiting, connect_rate_per_10s=0)
    app = App(settings, "dbname=none")
    application = Application([("/", EchoHandler, {"context": app.context})], log_function=lambda _handler: None)
    http = HTTPServer(application, max_buffer_size=waiting)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    try:
        yield int(sockets[0].getsockname()[1])
    finally:
        http.stop()
        for connection in list(app.registry.connections.values()):
            connection.end()
        await http.close_all_connections()
