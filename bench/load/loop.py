"""Sockets on epoll: open many, and read until a time or a condition."""

import select
import socket
import struct
import time
from collections.abc import Callable

from bench.load import frames

_OPEN_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 10.0
_READ = 65536
_LINGER = struct.pack("ii", 1, 0)


class Broken(Exception):
    """A server refused or dropped a connection, or did not answer in time."""


class Loop:
    """One epoll and its sockets. ``readers`` is called with a socket's descriptor when there is something to read."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.readers: dict[int, Callable[[bytes], None]] = {}

    def run(self, until: float, condition: Callable[[], bool] | None = None) -> None:
        """Read until ``condition()`` holds, or the monotonic time ``until``."""
        sockets, readers, poll = self.sockets, self.readers, self.epoll.poll
        while condition is None or not condition():
            left = until - time.monotonic()
            if left <= 0:
                return
            for fd, _ in poll(left):
                data = sockets[fd].recv(_READ)
                if not data:
                    raise Broken("the server closed a connection")
                readers[fd](data)

    def open(
        self, port: int, openings: list[tuple[bytes, bytes | None]], ready: bytes, at_once: int
    ) -> list[socket.socket]:
        """Open WebSockets, at most ``at_once`` under way, each until the server has sent ``ready``."""
        opened: list[socket.socket] = []
        received: dict[int, bytes] = {}
        waiting = list(reversed(openings))
        hellos: dict[int, bytes] = {}
        requests: dict[int, bytes] = {}
        deadline = time.monotonic() + _OPEN_TIMEOUT_S
        while waiting or received:
            while waiting and len(received) < at_once:
                request, hello = waiting.pop()
                sock = _connecting(port)
                fd = sock.fileno()
                self.sockets[fd] = sock
                received[fd] = b""
                requests[fd] = request
                if hello:
                    hellos[fd] = hello
                self.epoll.register(fd, select.EPOLLOUT)
            if time.monotonic() > deadline:
                raise Broken(f"{len(received)} connections were not ready within {_OPEN_TIMEOUT_S:.0f} s")
            for fd, _ in self.epoll.poll(1.0):
                sock = self.sockets[fd]
                if fd in requests:
                    sock.send(requests.pop(fd))
                    self.epoll.modify(fd, select.EPOLLIN)
                    continue
                if fd not in received:  # opened already: greetings, presence
                    self._greeted(sock)
                    continue
                data = sock.recv(_READ)
                if not data:
                    raise Broken(f"refused after {received[fd][-200:]!r}")
                received[fd] += data
                if fd in hellos and b"\r\n\r\n" in received[fd]:
                    sock.send(hellos.pop(fd))
                if ready in received[fd]:
                    del received[fd]
                    opened.append(sock)
        return opened

    def connect(self, port: int) -> socket.socket:
        """Open a plain TCP connection, for REST."""
        sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.sockets[sock.fileno()] = sock
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        return sock

    def drain(self, quiet_s: float) -> None:
        """Read and forget until nothing has come for ``quiet_s``, or for so long that it is only heartbeats."""
        give_up = time.monotonic() + _DRAIN_TIMEOUT_S
        while time.monotonic() < give_up and (ready := self.epoll.poll(quiet_s)):
            for fd, _ in ready:
                self._greeted(self.sockets[fd])

    def close(self) -> None:
        """Close every socket, with a reset: thousands of them waiting in TIME_WAIT would be in the next one's way."""
        for sock in self.sockets.values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            sock.close()
        self.sockets.clear()
        self.epoll.close()

    @staticmethod
    def _greeted(sock: socket.socket) -> None:
        data = sock.recv(_READ)
        if not data:
            raise Broken("the server closed a connection")
        answer = frames.heartbeat(data)
        if answer:
            sock.send(answer)


def _connecting(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect_ex(("127.0.0.1", port))
    return sock
