"""Who may open a WebSocket, as far as the request itself tells: its form, and the page that it comes from."""

import base64
from collections.abc import Callable
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest

from protocol.codes import AppError, ErrorCode


def check_handshake(request: HTTPServerRequest, origin_allowed: Callable[[str], bool]) -> None:
    """Raise ``AppError`` INVALID_REQUEST for what opens no WebSocket, FORBIDDEN for a page of a foreign origin.

    Tornado checks less, and answers without JSON. The version is left to it: that has a status of its own, 426.
    """
    fault = _fault(request)
    if fault is not None:
        raise AppError(ErrorCode.INVALID_REQUEST, fault)
    origin = request.headers.get("Origin")
    if origin is not None and not _is_same(origin, request.host) and not origin_allowed(origin):
        raise AppError(ErrorCode.FORBIDDEN, "Pages of this origin may not connect.")


def _fault(request: HTTPServerRequest) -> str | None:
    """Return what is wrong with an opening handshake (RFC 6455, section 4.2.1), or None."""
    headers = request.headers
    if headers.get("Upgrade", "").lower() != "websocket":
        return "This address takes WebSocket connections only."
    options = [option.strip() for option in headers.get("Connection", "").lower().split(",")]
    if request.version == "HTTP/1.0" or "upgrade" not in options:
        return "A WebSocket is opened over HTTP/1.1 with `Connection: Upgrade`."
    try:
        key = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except ValueError:
        key = b""
    return None if len(key) == 16 else "`Sec-WebSocket-Key` is wrong: expected 16 bytes in base64."


def _is_same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
