"""Opening handshakes, good and bad, and the status that each is answered with (RFC 6455, section 4.2)."""

from typing import NamedTuple

from conformance.client import ACCEPT, handshake


class Handshake(NamedTuple):
    """A request and its answer's status; ``tells`` has to stand in the answer's head."""

    name: str
    request: bytes
    status: int
    tells: str = ""


def handshakes() -> list[Handshake]:
    """Return all of them."""
    good = [
        Handshake("plain", handshake(), 101, f"Sec-Websocket-Accept: {ACCEPT}"),
        Handshake("other cases", handshake(Upgrade="WebSocket", Connection="keep-alive, upgrade"), 101),
        Handshake("unknown extensions", handshake(Sec_WebSocket_Extensions="foo, bar; baz=2"), 101),
        Handshake("deflate is not agreed on", handshake(Sec_WebSocket_Extensions="permessage-deflate"), 101),
        Handshake("broken extensions", handshake(Sec_WebSocket_Extensions="x; a*1=b; a*=c"), 101),
        Handshake("unknown subprotocol", handshake(Sec_WebSocket_Protocol="chat, superchat"), 101),
        Handshake(
            "our subprotocol",
            handshake(Sec_WebSocket_Protocol="bountyexpo.v1, bearer.x"),
            101,
            "Sec-Websocket-Protocol: bountyexpo.v1\r\n",
        ),
    ]
    bad = [
        Handshake("no Upgrade", handshake(Upgrade=None), 400),
        Handshake("another Upgrade", handshake(Upgrade="h2c"), 400),
        Handshake("no Connection", handshake(Connection=None), 400),
        Handshake("another Connection", handshake(Connection="keep-alive"), 400),
        Handshake("no key", handshake(Sec_WebSocket_Key=None), 400),
        Handshake("empty key", handshake(Sec_WebSocket_Key=""), 400),
        Handshake("a key of 15 bytes", handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j"), 400),
        Handshake("a key that is not base64", handshake(Sec_WebSocket_Key="*" * 24), 400),
        Handshake("no version", handshake(Sec_WebSocket_Version=None), 426, "Sec-Websocket-Version: 13"),
        Handshake("version 8", handshake(Sec_WebSocket_Version="8"), 426, "Sec-Websocket-Version: 13"),
        Handshake("version 14", handshake(Sec_WebSocket_Version="14"), 426, "Sec-Websocket-Version: 13"),
        Handshake("version x", handshake(Sec_WebSocket_Version="x"), 426, "Sec-Websocket-Version: 13"),
        Handshake("POST", handshake(method="POST", Content_Length="0"), 405),
        Handshake("HTTP/1.0", handshake(version="HTTP/1.0"), 400),
        Handshake("no Host", handshake(Host=None), 400),
        Handshake("a foreign page", handshake(Origin="https://evil.example"), 403),
        Handshake("a page without an origin", handshake(Origin="null"), 403),
    ]
    return good + bad
