"""One socket: every frame whole and in order, however slowly the peer reads, and never more waiting than the cap."""

import asyncio
import contextlib
import select
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado import httpserver, netutil, web, websocket
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from connections.connection import Connection
from protocol.codes import CloseCode
from protocol.outbound import text_frame
from tests.harness import until
from tests.raw import handshake

CAP = 1_048_576
TEXT, PING, CLOSE = 1, 9, 8


class Handler(websocket.WebSocketHandler):
    """A socket with a Connection beside Tornado's own ways to write."""

    opened: "asyncio.Future[Handler]"

    def open(self, *_: str) -> None:
        assert self.ws_connection is not None
        assert self.ws_connection.stream is not None
        self.ws_connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.connection = connection_on(self.ws_connection.stream, self.close)
        self.opened.set_result(self)

    def on_close(self) -> None:
        self.connection.closed(self.close_code or 1006)


def connection_on(stream: IOStream, close: "object", cap: int = CAP) -> Connection:
    return Connection(
        "c", user_id=None, address="", stream=stream, close=close, max_waiting_bytes=cap, now=0.0  # type: ignore[arg-type]
    )  # fmt: skip


class Peer:
    """A client that reads when it is told to, through a receive buffer as small as the kernel allows."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._data = b""

    async def shake_hands(self) -> None:
        await self._loop.sock_sendall(self.socket, handshake("/"))
        while b"\r\n\r\n" not in self._data:
            self._data += await self._loop.sock_recv(self.socket, 4096)
        self._data = self._data.partition(b"\r\n\r\n")[2]

    async def frames(self, size: int = 1500) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (opcode, payload) up to and with the close frame, reading ``size`` bytes at a time."""
        frame: tuple[int, bytes] | None = None
        while frame is None or frame[0] != CLOSE:
            frame = self._next()
            if frame is not None:
                yield frame
                continue
            chunk = await self._loop.sock_recv(self.socket, size)
            assert chunk, "ended without a close frame"
            self._data += chunk
        assert not self._data, "something after the close frame"

    def read_now(self) -> None:
        """Read all that the kernels hold, without giving the loop a turn."""
        while select.select([self.socket], [], [], 0.05)[0]:
            self._data += self.socket.recv(65536)

    def _next(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == 0x80, "a torn frame"
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = struct.unpack_from("!H" if start == 4 else "!Q", data, 2)[0]
        if len(data) < start + size:
            return None
        self._data = data[start + size :]
        return data[0] & 0xF, data[start : start + size]


@contextlib.asynccontextmanager
async def websocket_pair() -> AsyncIterator[tuple[Handler, Peer]]:
    """Open a real WebSocket; give the server's side and the client's."""
    opened = asyncio.get_running_loop().create_future()
    handler = type("OneHandler", (Handler,), {"opened": opened})
    server = httpserver.HTTPServer(web.Application([("/", handler)], log_function=lambda _: None))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    peer = Peer(sockets[0].getsockname()[1])
    try:
        await peer.shake_hands()
        yield await opened, peer
    finally:
        peer.socket.close()
        server.stop()
        await server.close_all_connections()


def numbered(number: int, size: int) -> bytes:
    return f"{number:06}".encode().ljust(size, b".")


async def test_tornados_own_writes_in_between_tear_nothing() -> None:
    """A slow reader gets every frame whole, ours in our order, with messages and pings of Tornado's own among them."""
    async with websocket_pair() as (handler, peer):
        connection = handler.connection
        first = handler.write_message(b"their first" + b"." * 100_000)
        first.add_done_callback(lambda future: future.exception())
        peer.read_now()  # the kernel has room again, and the rest of theirs is still with the stream
        sizes = [6, 130, 126, 70_000, 6, 1000, 20_000, 125, 65_536] * 6
        for number, size in enumerate(sizes):
            connection.send(text_frame(numbered(number, size)))
            if number % 5 == 0:
                sent = handler.write_message(b"their" + numbered(number, 3000))
                sent.add_done_callback(lambda future: future.exception())
            if number % 7 == 0:
                handler.ping(b"ping")
            if number % 11 == 0:
                await asyncio.sleep(0)
            if connection.waiting_bytes > CAP // 2:
                break
        assert connection.waiting_bytes > 200_000, "the kernel took it all: nothing was tested"
        connection.close(CloseCode.NORMAL)
        frames = [frame async for frame in peer.frames()]
    count = number + 1
    assert count > 20
    mine = [payload for opcode, payload in frames if opcode == TEXT and not payload.startswith(b"their")]
    first_of_theirs, *theirs = [payload for _, payload in frames if payload.startswith(b"their")]
    assert len(first_of_theirs) == 100_011
    assert mine == [numbered(n, size) for n, size in enumerate(sizes[:count])]
    assert theirs == [b"their" + numbered(n, 3000) for n in range(0, count, 5)]
    assert sum(opcode == PING for opcode, _ in frames) == len(range(0, count, 7))
    assert frames[-1] == (CLOSE, struct.pack("!H", 1000)), "after all that waited"


async def test_a_peer_that_never_reads_is_given_up() -> None:
    """With 4408, once, at the cap; what was meant for it costs no memory any more."""
    async with websocket_pair() as (handler, _):
        connection = handler.connection
        tracemalloc.start()
        try:
            for number in range(2000):  # 20 MB
                connection.send(text_frame(numbered(number, 10_000)))
                assert connection.waiting_bytes <= CAP + 10_004
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert connection.closing
        assert connection.close_code == CloseCode.UNRESPONSIVE
        assert peak < 4 * CAP
        connection.end()
        await until(lambda: connection.waiting_bytes == 0)


@pytest.mark.parametrize("waiting", [0, 100])
async def test_a_peer_that_resets_raises_nothing(waiting: int) -> None:
    """Not in the fan-out, not later; whoever reads from it notices."""
    async with websocket_pair() as (handler, peer):
        connection = handler.connection
        for number in range(waiting):
            connection.send(text_frame(numbered(number, 9000)))
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        for number in range(100):
            connection.send(text_frame(numbered(number, 100)))
            connection.send_droppable(text_frame(b"x"))
            await asyncio.sleep(0)
        await until(lambda: connection.closing)
        connection.send(text_frame(b"x"))
        connection.close(CloseCode.NORMAL)
        await asyncio.wait_for(connection.drained(), 1)


async def test_drained_waits_for_the_peer() -> None:
    """No longer and no less; a connection that ends wakes those that wait."""
    async with websocket_pair() as (handler, peer):
        connection = handler.connection
        await asyncio.wait_for(connection.drained(), 1)
        while not connection.lagging:
            connection.send(text_frame(b"x" * 9000))
        drained = [asyncio.create_task(connection.drained()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in drained)
        reading = asyncio.create_task(_read_all(peer))
        await asyncio.wait_for(asyncio.gather(*drained), 5)
        assert connection.waiting_bytes == 0
        connection.close(CloseCode.NORMAL)
        await reading


async def test_drained_ends_with_the_connection() -> None:
    """However it ends."""
    async with websocket_pair() as (handler, _):
        while not handler.connection.lagging:
            handler.connection.send(text_frame(b"x" * 9000))
        drained = asyncio.create_task(handler.connection.drained())
        await asyncio.sleep(0)
        handler.connection.end()
        await asyncio.wait_for(drained, 1)


async def _read_all(peer: Peer) -> None:
    async for _ in peer.frames(65536):
        pass


async def test_what_is_held_back_counts(io_loop: IOLoop) -> None:
    """In bytes and against the cap; a replay that is sent meanwhile goes before it."""
    near, far = socket.socketpair()
    closes: list[int] = []
    connection = connection_on(IOStream(near), closes.append, 1000)
    connection.hold()
    for seq in (4, 5, 6):
        connection.send(b"%d" % seq * 100, "chat", seq)
    connection.send(b"t" * 50)
    connection.send(b"o" * 10, "other", 1)
    assert connection.holding
    assert connection.waiting_bytes == 360
    early = connection.take_held({"chat": 5})
    assert [(held.stream, held.seq) for held in early] == [("chat", 4), ("chat", 5)]
    assert connection.waiting_bytes == 160
    connection.send_now(b"replay")
    connection.release()
    assert not connection.holding
    assert connection.waiting_bytes == 0
    connection.send(b"live")
    far.setblocking(True)
    assert far.recv(1000) == b"replay" + b"6" * 100 + b"t" * 50 + b"o" * 10 + b"live"
    connection.hold()
    for _ in range(11):
        connection.send(b"x" * 100)
    assert closes == [CloseCode.UNRESPONSIVE]
    connection.end()
    far.close()


operations = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "now", "hold", "take", "release", "turn", "read"]),
        st.integers(1, 30_000),
    ),
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(operations=operations)
def test_nothing_is_lost_or_moved(io_loop: IOLoop, operations: list[tuple[str, int]]) -> None:
    """Whatever is sent, held and released, while the peer reads now and then: the bytes are those, in that order."""

    async def run() -> None:
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        far.setblocking(False)
        connection = connection_on(IOStream(near), lambda _: None, 10**9)
        expected, held, got = bytearray(), [], bytearray()

        def read(size: int) -> None:
            with contextlib.suppress(BlockingIOError):
                got.extend(far.recv(size))

        for number, (operation, size) in enumerate(operations):
            frame = b"%04d" % number + b"." * size
            if operation == "send":
                connection.send(frame, "chat", number)
                if connection.holding:
                    held.append((number, frame))
                else:
                    expected += frame
            elif operation == "now":
                connection.send_now(frame)
                expected += frame
            elif operation == "hold" and not connection.holding:
                connection.hold()
            elif operation == "take" and connection.holding:
                middle = held[len(held) // 2][0] if held else 0
                early = connection.take_held({"chat": middle})
                assert [entry.frame for entry in early] == [frame for at, frame in held if at <= middle]
                held = [entry for entry in held if entry[0] > middle]
            elif operation == "release" and connection.holding:
                connection.release()
                expected += b"".join(frame for _, frame in held)
                held = []
            elif operation == "read":
                read(size)
            else:
                await asyncio.sleep(0)
        while len(got) < len(expected):
            read(65536)
            await asyncio.sleep(0)
        assert got == expected
        await connection.drained()
        assert connection.waiting_bytes == sum(len(frame) for _, frame in held)
        connection.end()
        far.close()

    io_loop.run_sync(run, timeout=20)
