"""RFC 6455, in raw cases against an echo socket, and on the real endpoints. The long form is ``make conformance``."""

import asyncio

import pytest
from tornado.websocket import WebSocketHandler

from conformance.cases import SECTIONS, Case, cases
from conformance.client import CLOSE, TEXT, End, close, frame, handshake, read_frame, talk
from conformance.echo import EchoHandler, echo_server
from conformance.handshakes import Handshake, handshakes
from conformance.runner import run_case, run_handshake
from settings import Settings
from tests.harness import Server, token, until
from tests.raw import RawSocket

CASES = cases(Settings().max_frame_bytes)


@pytest.mark.parametrize("section", SECTIONS, ids=SECTIONS.values())
async def test_every_case_of_a_section(section: int) -> None:
    """Good frames come back, bad ones are answered with the right close code and no reset."""
    mine = [case for case in CASES if case.section == section]
    assert mine
    async with echo_server() as port:
        failures = await asyncio.gather(*(run_case(port, case) for case in mine))
    assert not [failure for failure in failures if failure]


@pytest.mark.parametrize("handshake", handshakes(), ids=lambda handshake: handshake.name)
async def test_handshake(handshake: Handshake) -> None:
    """An opening handshake is taken, or refused with the fitting status."""
    async with echo_server() as port:
        assert await run_handshake(port, handshake) is None


@pytest.mark.parametrize(
    "case",
    [
        Case("close code", [close(999)], code=1002),
        Case("a reserved bit", [frame(TEXT, b"x", reserved=1)], code=1002),
        Case("not UTF-8", [frame(TEXT, b"\xff")], code=1007),
    ],
    ids=lambda case: case.name,
)
async def test_the_cases_can_fail(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tornado's own protocol does not pass, so what passes is ours: a change below it is noticed."""
    monkeypatch.setattr(EchoHandler, "get_websocket_protocol", WebSocketHandler.get_websocket_protocol)
    async with echo_server() as port:
        assert await run_case(port, case) is not None


async def test_the_client_of_these_tests_sees_a_reset() -> None:
    """A connection that ends without a close frame is told from one with it."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await talk(port, [frame(TEXT, b"x" * 100_000)], None) in (([], End(None)), ([], End(None, reset=True)))


async def test_after_a_breach_nothing_more_is_sent_and_the_socket_is_forgotten(server: Server) -> None:
    """The close frame is the last one, whatever is broadcast while the client reads it; the rest of us go on."""
    one, other, conversation_id = await server.pair()
    good = await server.messages(other)
    async with RawSocket.open(server.port, f"/messages/subscribe?token={token(one)}&replay=0") as bad:
        await bad.frame()
        bad.writer.write(frame(0x3, b"no such opcode"))
        code = await bad.closed()
        await good.say(conversation_id, "is anybody there?")
        assert code == 1002
        assert await bad.reader.read() == b""
    await until(lambda: not server.app.registry.count_of_user(one))


async def test_a_client_that_does_not_end_after_a_breach_is_ended(server: Server) -> None:
    """Whoever keeps the connection after the server's close frame, sending or not, is cut off within seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(handshake("/events/subscribe"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(TEXT, b"bare", masked=False))
    while (await read_frame(reader)).opcode != CLOSE:
        pass
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            while True:
                writer.write(b"\xff" * 10_000)
                await writer.drain()
                await asyncio.sleep(0.01)
    assert not server.app.registry.connections
    writer.close()
