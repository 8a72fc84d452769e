"""REST calls: authentication, rate limit, CORS, bodies and their errors."""

import re
from typing import ClassVar

import msgspec
from tornado import web

from connections.limits import rate_limited
from handlers.base import BaseHandler, nothing_here
from handlers.context import Context
from protocol.codes import AppError, ErrorCode
from protocol.inbound import B, decode_body, parse_id
from protocol.queries import Q, decode_query
from services.auth import auth_required

_EXPOSED_HEADERS = "X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-Connection-Id, X-Request-Id"


@web.stream_request_body
class RestHandler(BaseHandler):
    """A REST call.

    ``authenticate`` says whether a token is needed, but for ``open_methods``; ``rate_limited`` whether the call counts.
    """

    authenticate: ClassVar[bool] = True
    open_methods: ClassVar[frozenset[str]] = frozenset()
    rate_limited: ClassVar[bool] = True

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self._body: list[bytes] = []
        self._body_bytes = 0

    async def prepare(self) -> None:
        """Answer for CORS, know who is asking, and count the call. Any of it may end the request."""
        self._allow_origin()
        try:
            await self._admit()
        except AppError:
            if self.request.method != "GET":  # its body is not read, so nothing can follow it
                self.set_header("Connection", "close")
            raise

    async def _admit(self) -> None:
        # What is no length is Tornado's to refuse, once it comes to the body.
        length = self.request.headers.get("Content-Length", "")
        self._check_size(int(length) if re.fullmatch(r"[0-9]{1,18}", length, re.ASCII) else 0)
        if self.request.method == "OPTIONS":
            return
        try:
            if self.needs_token(self.request.method or ""):
                self.identity = await self.context.authenticator.identify(self.bearer())
        finally:
            if self.rate_limited:
                self._count()

    @classmethod
    def needs_token(cls, method: str) -> bool:
        """Return whether a call by this method is for people with a token only."""
        return cls.authenticate and method not in cls.open_methods

    def data_received(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._body_bytes <= self.context.settings.max_body_bytes:
            self._body.append(chunk)

    async def head(self, *args: str) -> None:
        """Answer as to GET; Tornado leaves the body out."""
        answering = self.get(*args)
        if answering is not None:
            await answering

    def options(self, *_args: str) -> None:
        """Answer a preflight."""
        self.set_status(204)
        self.finish()

    @property
    def user_id(self) -> str:
        """Who is asking. Raises ``AppError`` AUTH_REQUIRED, or AUTH_FAILED for a token that is nobody's."""
        if self.identity is None:
            raise auth_required()
        return self.identity.user

    async def known_user(self) -> str:
        """Return who is asking, with a profile by now."""
        user_id = self.user_id
        assert self.identity is not None
        await self.context.profiles.ensure(user_id, self.identity.wanted_handle)
        return user_id

    def body(self, kind: type[B]) -> B:
        """Return the body as ``kind``. Raises ``AppError`` INVALID_JSON, INVALID_REQUEST, TOO_LARGE."""
        self._check_size(self._body_bytes)
        return decode_body(b"".join(self._body), kind)

    def id_of(self, text: str, name: str) -> str:
        """Return an id that stands in the path or query. Raises ``AppError`` INVALID_REQUEST naming it."""
        try:
            return parse_id(text)
        except ValueError:
            raise AppError(ErrorCode.INVALID_REQUEST, f"`{name}` is wrong: expected a UUID.") from None

    def query(self, kind: type[Q]) -> Q:
        """Return the query as ``kind``; what it does not know is left out. Raises ``AppError`` INVALID_REQUEST."""
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        given = {name: self.get_query_argument(name) for name in names if name in self.request.query_arguments}
        return decode_query(given, kind)

    def _check_size(self, size: int) -> None:
        most = self.context.settings.max_body_bytes
        if size > most:
            raise AppError(ErrorCode.TOO_LARGE, f"The body is larger than {most} bytes.")

    def _allow_origin(self) -> None:
        self.set_header("Vary", "Origin")
        origin = self.request.headers.get("Origin")
        if origin is None or not self.context.origin_allowed(origin):
            return
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header("Access-Control-Expose-Headers", _EXPOSED_HEADERS)
        if self.request.method == "OPTIONS":
            self.set_header("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
            self.set_header("Access-Control-Allow-Headers", _ALLOWED_HEADERS)
            self.set_header("Access-Control-Max-Age", "600")

    def _count(self) -> None:
        limiter = self.context.rest_rate
        if not limiter.rate:
            return
        key = self.counted_by
        wait_s = limiter.take(key)
        self.set_header("X-RateLimit-Limit", str(int(limiter.burst)))
        self.set_header("X-RateLimit-Remaining", str(limiter.remaining(key)))
        self.set_header("X-RateLimit-Reset", str(int(limiter.full_in(key) + 0.999)))
        if wait_s:
            raise rate_limited(wait_s, "requests")


class NotFoundHandler(RestHandler):
    """Any address that is no other handler's."""

    authenticate = False
    rate_limited = False

    async def prepare(self) -> None:
        """Say so."""
        await super().prepare()
        if self.request.method != "OPTIONS":
            raise nothing_here()
