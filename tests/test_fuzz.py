"""A few thousand hostile inputs; the long form, with a server process of its own, is ``make fuzz``."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from fuzz import drivers
from fuzz.campaign import Campaign
from fuzz.findings import Findings
from fuzz.requests import Request
from protocol.codes import AppError, ErrorCode
from protocol.inbound import ChangeStatus, EventsFrame, FrameDecoder, MessagesFrame, decode_body
from tests.harness import Server, token

IN_PROCESS, SENT = 2500, 800


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bad frames come, the socket stays."""
    monkeypatch.setattr("handlers.socket.BAD_FRAMES_WITHIN_S", 0)


@pytest.mark.usefixtures("patient")
async def test_no_input_does_harm(start: Callable[..., Awaitable[Server]], caplog: pytest.LogCaptureFixture) -> None:
    """Every frame that is none is told so, nothing is logged as a fault, and others notice nothing."""
    server = await start(max_connections_per_user=100)  # one that was just left counts until the server has noticed
    one, other, conversation_id = await server.pair()
    mallory, _, hers = await server.pair()
    sender, receiver = await server.messages(one), await server.messages(other)
    bounty_id, _ = await server.bounty()
    findings = Findings()
    campaign = Campaign(token(mallory), hers, bounty_id, seed=SENT, seeds=60)
    campaign.decode(IN_PROCESS, findings)
    with capture_logs() as lines, caplog.at_level(logging.ERROR):
        await campaign.send(server.port, SENT, findings)
        for number in range(20):
            await sender.say(conversation_id, f"still here {number}")
            await receiver.get("message.new", text=f"still here {number}")
    assert findings.breaches == []
    assert findings.sent.total() >= IN_PROCESS + SENT
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert caplog.records == []
    assert server.app.registry.subscribers(bounty_id) == []
    assert sum(len(person.connections) for person in server.app.registry.people.values()) == 2


@pytest.mark.usefixtures("patient")
async def test_a_server_that_says_nothing_is_found_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge can fail: with frames that are not answered, and with an endpoint that fails."""
    findings = Findings()
    events: FrameDecoder[Any] = FrameDecoder(EventsFrame)
    monkeypatch.setattr("handlers.socket.SocketHandler._answer_bad_frame", lambda *_: None)
    await drivers.Socket(server.port, "/events/subscribe", "frames", events, findings).send_all(["{", "[]"])
    assert len(findings.breaches) == 1
    monkeypatch.setattr("handlers.health.HealthHandler.get", lambda _: 1 / 0)
    broken = Request(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", is_whole=True)
    await drivers.http(server.port, broken, findings)
    assert len(findings.breaches) == 2


def test_what_the_client_wrote_is_not_quoted_back() -> None:
    """A type that comes twice is judged by the first, and its value stays out of the message, long or not printable."""
    messages: FrameDecoder[Any] = FrameDecoder(MessagesFrame)
    for value in ("a\\u0000b", "y" * 9000, "z' - at `$.x"):
        with pytest.raises(AppError) as caught:
            messages.decode(f'{{"type":"{value}","type":"ping"}}')
        assert caught.value.message == "Invalid value - at `$.type`."
        with pytest.raises(AppError) as caught:
            decode_body(f'{{"status":"{value}"}}'.encode(), ChangeStatus)
        assert caught.value.message.startswith("Invalid enum value, expected one of: open, in_progress, ")
        assert caught.value.message.endswith(", cancellation_requested - at `$.status`.")
        assert caught.value.code is ErrorCode.INVALID_REQUEST
