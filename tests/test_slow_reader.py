"""Backpressure in three steps: typing and presence go first, then all but the newest status, then the reader."""

import json
import socket
from collections.abc import Iterator

import pytest
from tornado.iostream import IOStream

from connections.connection import Connection
from protocol.outbound import text_frame
from tests.harness import Server, token, until
from tests.raw import RawSocket

CAP = 65_536


class Pipe:
    """A connection, and the far end of its socket."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.closes: list[int] = []
        self.stream = IOStream(near)
        self.connection = Connection(
            "c",
            user_id=None,
            address="",
            stream=self.stream,
            close=self.closes.append,
            max_waiting_bytes=CAP,
            now=0.0,
        )

    def fill(self, waiting: int) -> None:
        """Send until this many bytes wait."""
        while self.connection.waiting_bytes < waiting:
            self.connection.send(text_frame(b"x" * 1000))

    async def rest(self) -> bytes:
        """Read all that was sent."""
        self.far.setblocking(False)
        data = bytearray()

        def drained() -> bool:
            try:
                while chunk := self.far.recv(65536):
                    data.extend(chunk)
            except BlockingIOError:
                pass
            return not self.connection.waiting_bytes

        await until(drained)
        drained()
        return bytes(data)


@pytest.fixture
def pipe(io_loop: object) -> Iterator[Pipe]:
    """A pipe whose far end reads nothing by itself."""
    pipe = Pipe()
    yield pipe
    pipe.stream.close()
    pipe.far.close()


async def test_first_what_is_worth_nothing_later_is_dropped(pipe: Pipe) -> None:
    """Typing and presence are not sent to a peer that lags behind; messages are."""
    pipe.connection.send_droppable(text_frame(b"typing early"))
    pipe.fill(CAP // 2)
    pipe.connection.send_droppable(text_frame(b"typing late"))
    pipe.connection.send(text_frame(b"a message"))
    received = await pipe.rest()
    assert b"typing early" in received and b"a message" in received
    assert b"typing late" not in received
    assert not pipe.closes


async def test_then_only_the_newest_status_of_a_bounty_is_kept(pipe: Pipe) -> None:
    """A lagging subscriber gets each bounty's newest status, in the order of events, and stays connected."""
    pipe.fill(CAP // 2)
    for number in range(5000):
        pipe.connection.send(text_frame(b"cat %d;" % number), "events", number, topic="cat")
        pipe.connection.send(text_frame(b"dog %d;" % number), "events", number, topic="dog")
    received = await pipe.rest()
    assert received.count(b"cat ") == received.count(b"dog ") == 1
    assert received.index(b"cat 4999;") < received.index(b"dog 4999;")
    assert not pipe.closes


async def test_a_reader_that_keeps_up_gets_every_status(pipe: Pipe) -> None:
    """Nothing is superseded for a subscriber that does not lag behind."""
    for number in range(20):
        pipe.connection.send(text_frame(b"cat %d;" % number), "events", number, topic="cat")
    assert (await pipe.rest()).count(b"cat ") == 20


async def test_at_last_the_reader_is_closed(pipe: Pipe) -> None:
    """Past MAX_SEND_QUEUE_BYTES the connection is closed with 4408, and keeps nothing."""
    while not pipe.closes:
        pipe.connection.send(text_frame(b"x" * 1000))
        assert pipe.connection.waiting_bytes <= CAP + 1004
    assert pipe.closes == [4408]
    pipe.connection.send(text_frame(b"after"))
    assert pipe.closes == [4408]


async def test_a_greeting_larger_than_what_may_wait(server: Server) -> None:
    """Somebody in very many conversations, on a slow network, is let in: one frame is no sign of a slow reader."""
    alice, _, _ = await server.pair()
    server.sql(
        """
        WITH made AS (INSERT INTO conversations (is_group) SELECT true FROM generate_series(1, 40000) RETURNING id)
        INSERT INTO conversation_participants (conversation_id, user_id) SELECT id, %s FROM made
        """,
        alice,
    )
    for listening in server.app.listening._sockets:  # what it accepts has the same
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    async with RawSocket.open(server.port, "/messages/subscribe", Authorization=f"Bearer {token(alice)}") as phone:
        connected = json.loads((await phone.frame())[1])
        assert connected["type"] == "connected" and len(connected["conversationIds"]) == 40_001
        assert json.loads((await phone.frame())[1])["type"] == "replay.complete"
