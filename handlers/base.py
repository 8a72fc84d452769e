"""What REST handlers and sockets share: who is asking, and how a failed request is answered.

With ``rest.py`` and ``socket.py`` this is the one place that turns an ``AppError`` into an HTTP answer, an ``error``
frame or a close code.
"""

import asyncio
import re
import time
from typing import Any

import structlog
from tornado import web

from handlers.context import Context, subscriber
from protocol.answers import Failure
from protocol.codes import AppError, ErrorCode
from protocol.outbound import encode_body, new_id
from services.auth import Identity

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HTTP_ERRORS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}
_HTTP_MESSAGES = {
    ErrorCode.NOT_FOUND: "There is nothing at this address.",
    ErrorCode.METHOD_NOT_ALLOWED: "This address does not take this method.",
}


class BaseHandler(web.RequestHandler):
    """Of REST handlers and sockets alike. Tornado's own logging of requests is replaced: it would show tokens."""

    __slots__ = ("address", "context", "identity", "request_id", "started_at")

    context: Context

    def initialize(self, context: Context) -> None:
        """Take what ``app.py`` built."""
        self.context = context
        context.requests.add(self)
        self.started_at = time.monotonic()
        given = self.request.headers.get("X-Request-Id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        self.address = subscriber(
            context.client_address(self.request.remote_ip or "", self.request.headers.get("X-Forwarded-For"))
        )
        self.identity: Identity | None = None
        self.set_header("X-Request-Id", self.request_id)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")

    def bearer(self) -> str | None:
        """Return the token of the Authorization header."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, AppError | web.HTTPError):
            return
        log.error(
            "request.failed",
            exc_info=(typ, value, tb),
            request_id=self.request_id,
            path=self.request.path,
            user_id=self.identity.user_id if self.identity else None,
        )

    def on_finish(self) -> None:
        self.context.requests.discard(self)
        if self.get_status() == 101:  # a socket has its own lines
            return
        traffic, duration_s = self.context.traffic, time.monotonic() - self.started_at
        traffic.answers[self.get_status()] += 1
        traffic.answer_seconds.observe(duration_s)
        log.info(
            "request",
            method=self.request.method,
            path=self.request.path,
            status=self.get_status(),
            duration_ms=round(duration_s * 1000, 1),
            request_id=self.request_id,
            user_id=self.identity.user_id if self.identity else None,
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the JSON of what went wrong, whatever it was."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, AppError):
            if status_code == 500:
                code, message = ErrorCode.INTERNAL, "Something went wrong on our side."
            else:
                code = _HTTP_ERRORS.get(status_code, ErrorCode.INVALID_REQUEST)
                message = _HTTP_MESSAGES.get(code, "The request is not valid.")
            error = AppError(code, message)
        self.context.traffic.errors[error.code.name] += 1
        self.set_status(error.code.status if isinstance(kwargs["exc_info"][1], AppError) else status_code)
        if error.retry_after_ms is not None:
            self.set_header("Retry-After", str(max(1, -(-error.retry_after_ms // 1000))))
        if status_code == 405:
            methods = [name for name in self.SUPPORTED_METHODS if self._takes(name)]
            self.set_header("Allow", ", ".join(methods))
        if error.code.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.answer(
            Failure(
                error=error.code.name.replace("_", " ").capitalize(),
                message=error.message,
                code=error.code.name,
                request_id=self.request_id,
            )
        )

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        # An AppError is no HTTPError, so Tornado comes here with 500 for it: headers set so far are kept for CORS.
        if self._headers_written:
            super().send_error(status_code, **kwargs)
            return
        kwargs.setdefault("exc_info", (None, None, None))
        self.write_error(status_code, **kwargs)

    def answer(self, value: Any, status: int | None = None) -> None:
        """Finish with a JSON body."""
        if status is not None:
            self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(encode_body(value))

    def finish(self, chunk: Any = None) -> "asyncio.Future[None]":
        """Send the answer, for as long as the client takes it and has not left too many others unread."""
        connection: Any = self.request.connection
        stream, unread = connection.stream, self.context.unread
        if unread.is_over(self.counted_by):
            log.warning("request.unread", request_id=self.request_id, user_id=self.identity and self.identity.user_id)
            stream.close()
        taken = super().finish(chunk)
        if not taken.done() and self.get_status() != 101:  # a socket's handshake is no end of the connection
            timeout_s = self.context.settings.request_timeout_s
            unread.watch(self.counted_by, len(chunk or b""), stream, taken, timeout_s)
        return taken

    @property
    def counted_by(self) -> str:
        """What limits count a request by: its user, else its address."""
        return (self.identity.user_id if self.identity else None) or self.address

    def _takes(self, method: str) -> bool:
        name = ("get" if method == "HEAD" else method).lower()
        return getattr(type(self), name) is not getattr(web.RequestHandler, name)

    def compute_etag(self) -> str | None:
        """None: no answer of ours is cached, so hashing it would be for nothing."""
        return None


def nothing_here() -> AppError:
    """The answer at an address that is no other's."""
    return AppError(ErrorCode.NOT_FOUND, _HTTP_MESSAGES[ErrorCode.NOT_FOUND])
