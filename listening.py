"""The sockets that connections come in at."""

import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

from tornado import netutil
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

# File descriptors kept for the database, the listening socket, logs and libraries. Past them `accept` would fail,
# again and again, as fast as the loop turns.
_SPARE_DESCRIPTORS = 64
_BACKLOG = 4096
# What one connection may send ahead of our reading: several frames or a piece of a body.
_MAX_READ_BUFFER_BYTES = 1024 * 1024


class Listening:
    """Takes TCP connections in for an HTTP server, as long as there are file descriptors for them."""

    def __init__(self, http: HTTPServer) -> None:
        self._http = http
        self._sockets: list[socket.socket] = []
        self._unlisten: list[Callable[[], None]] = []
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._last_descriptor = sys.maxsize if soft == resource.RLIM_INFINITY else soft - _SPARE_DESCRIPTORS

    def start(self, host: str, port: int, passed: list[socket.socket] | None = None) -> int:
        """Accept connections; return the port. Raises ``OSError`` when the address can't be had.

        :param passed: listening sockets that somebody else owns, instead of an address. They outlive this server: what
            is not accepted by the time it stops waits in the kernel for the next.
        """
        self._sockets = passed or netutil.bind_sockets(port, host, backlog=_BACKLOG)
        self._unlisten = [netutil.add_accept_handler(listening, self._accept) for listening in self._sockets]
        return int(self._sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Accept nothing more."""
        for unlisten in self._unlisten:
            unlisten()
        for listening in self._sockets:
            listening.close()
        self._unlisten, self._sockets = [], []

    def _accept(self, connection: socket.socket, address: Any) -> None:
        """Take a TCP connection in. Descriptors are given lowest first, so a high one tells that few are left."""
        if connection.fileno() >= self._last_descriptor:
            connection.close()
            return
        self._http.handle_stream(IOStream(connection, max_buffer_size=_MAX_READ_BUFFER_BYTES), address)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return how many connections that is enough for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(1, hard - 2 * _SPARE_DESCRIPTORS)
