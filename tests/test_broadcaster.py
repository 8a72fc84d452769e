"""One frame to a great many sockets, and everybody else still has a turn."""

import socket
import time
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from listening import raise_descriptor_limit
from tests.faults import quietest_gap

MANY = 2000


class Crowd:
    """Open connections, and their far ends."""

    def __init__(self, size: int) -> None:
        self.far: list[socket.socket] = []
        self.connections: list[Connection] = []
        for number in range(size):
            near, far = socket.socketpair()
            far.setblocking(False)
            self.far.append(far)
            self.connections.append(
                Connection(
                    str(number), user_id=None, address="", stream=IOStream(near), close=lambda _: None,
                    max_waiting_bytes=10**6, now=0.0,
                )
            )  # fmt: skip

    def got(self) -> list[bytes]:
        """Return what each far end has received since the last look."""
        return [_received(far) for far in self.far]

    def close(self) -> None:
        for connection in self.connections:
            connection.end()
        for far in self.far:
            far.close()


def _received(far: socket.socket) -> bytes:
    try:
        return far.recv(65536)
    except BlockingIOError:
        return b""


@pytest.fixture
def crowd(io_loop: IOLoop, request: pytest.FixtureRequest) -> Iterator[Crowd]:
    """As many connections as the test asks for."""
    raise_descriptor_limit()
    crowd = Crowd(request.param)
    yield crowd
    crowd.close()


@pytest.mark.parametrize("crowd", [MANY], indirect=True)
async def test_a_large_fan_out_lets_others_have_a_turn(crowd: Crowd) -> None:
    """Ten thousand and more sends; nobody waits for all of them."""
    broadcaster = Broadcaster()
    recipients = crowd.connections * 10
    took_s = []

    async def fan_out() -> None:
        started = time.monotonic()
        await broadcaster.send_to_all(b"f" * 130, recipients, stream="s", seq=1, topic="t")
        took_s.append(time.monotonic() - started)

    held_s = await quietest_gap(fan_out, 0.02)
    assert all(data == b"f" * 1300 * len(took_s) for data in crowd.got())
    assert held_s < 0.1
    assert held_s < min(took_s) / 3


@pytest.mark.parametrize("crowd", [MANY], indirect=True)
async def test_two_events_keep_their_order(crowd: Crowd) -> None:
    """At every socket."""
    broadcaster = Broadcaster()
    await broadcaster.send_to_all(b"first", crowd.connections, stream="s", seq=1, topic="a")
    await broadcaster.send_to_all(b"second", crowd.connections, stream="s", seq=2, topic="b")
    assert set(crowd.got()) == {b"firstsecond"}


@pytest.mark.parametrize("crowd", [3], indirect=True)
async def test_all_but_one(crowd: Crowd) -> None:
    """The sender's own socket is left out; one that is gone keeps nobody from theirs."""
    broadcaster = Broadcaster()
    assert broadcaster.send(b"frame", crowd.connections, but="1") == 2
    assert crowd.got() == [b"frame", b"", b"frame"]
    crowd.far[0].close()
    crowd.connections[1].end()
    for _ in range(3):
        broadcaster.send(b"frame", crowd.connections)
    assert _received(crowd.far[2]) == b"frame" * 3


@pytest.mark.parametrize("crowd", [2], indirect=True)
async def test_who_lags_behind_misses_only_what_is_worth_nothing_later(crowd: Crowd) -> None:
    """Typing and presence; the others get them all the same."""
    broadcaster = Broadcaster()
    slow = crowd.connections[0]
    while not slow.lagging:
        slow.send(b"." * 10_000)
    before = slow.waiting_bytes
    broadcaster.send_droppable(b"typing", crowd.connections)
    assert slow.waiting_bytes == before
    broadcaster.send(b"message", crowd.connections)
    assert slow.waiting_bytes == before + len(b"message")
    assert _received(crowd.far[1]) == b"typingmessage"
