"""What the load generator puts on the wire, as bytes, and the little that it reads out of what comes back."""

import base64
import re
import struct

# FIN and opcode 1, masked (RFC 6455, section 5.2). A mask of zeros is a legal mask that costs the client nothing;
# the server unmasks as always.
_NO_MASK = b"\x00\x00\x00\x00"
_KEY = base64.b64encode(b"a benchmark's 16").decode()

_PING = 0x89
PONG = b"\x8a\x80" + _NO_MASK
_SOCKET_IO_PING = b"\x81\x012"
SOCKET_IO_PONG = b"\x81\x81" + _NO_MASK + b"3"

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def text(payload: bytes) -> bytes:
    """Return a client's text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, 0x80 | size)) + _NO_MASK + payload
    return struct.pack("!BBH", 0x81, 0xFE, size) + _NO_MASK + payload


def upgrade(port: int, target: str) -> bytes:
    """Return the request that opens a WebSocket."""
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def post(port: int, target: str, token: str, body: bytes) -> bytes:
    """Return an authenticated REST call."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def is_answered(received: bytes) -> bool:
    """Whether an HTTP answer is whole. Raises ``ValueError`` where it is no success."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    if not received.startswith(b"HTTP/1.1 2"):
        raise ValueError(f"the server answered {received[:300]!r}")
    length = _LENGTH.search(received, 0, head_end)
    return len(received) >= head_end + 4 + (int(length[1]) if length else 0)


def heartbeat(received: bytes) -> bytes | None:
    """Return the answer to a ping, WebSocket's or Socket.IO's, if that is what came."""
    if received[0] == _PING:
        return PONG
    return SOCKET_IO_PONG if received.startswith(_SOCKET_IO_PING) else None
