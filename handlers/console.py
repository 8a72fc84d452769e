"""What the console at ``/console`` asks for besides its files: the frames' schema, and tokens in development."""

import re
from typing import Any, Literal, get_args

import msgspec

from handlers.base import nothing_here
from handlers.context import LOOPBACK_HOSTS
from handlers.local import is_direct_from_loopback
from handlers.rest import RestHandler
from protocol.codes import AppError, ErrorCode
from protocol.inbound import BOUNTY_STATUSES, Body, EventsFrame, MessagesFrame, schema_of_custom
from storage import seed

_PORT = re.compile(r":[0-9]{1,5}$")


class WhoToBe(Body, kw_only=True):
    """``POST /console/token``"""

    user: Literal["alice", "bob"]


class _ConsoleHandler(RestHandler):
    authenticate = False
    rate_limited = False

    def makes_tokens(self) -> bool:
        """Whether this request may have a token: development, and a page or program of this very machine.

        The name in ``Host`` has to be loopback's own, so that a foreign name that resolves to it (DNS rebinding) gets
        nothing; a page has to be of this server, so that other pages on loopback get nothing either.
        """
        headers, settings = self.request.headers, self.context.settings
        host = self.request.host.lower()
        origin = headers.get("Origin")
        return (
            not settings.production
            and settings.supabase_jwt_secret is not None
            and is_direct_from_loopback(self.request)
            and _PORT.sub("", host) in LOOPBACK_HOSTS
            and (origin is None or origin.lower() == f"{self.request.protocol}://{host}")
            and headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none")
        )


class ConsoleSchemaHandler(_ConsoleHandler):
    """``GET /console/schema.json``: what the console builds its forms from."""

    def get(self) -> None:
        """Answer with the schema of every frame that a client may send, per socket."""
        self.answer(
            {
                "version": self.context.version,
                "makesTokens": self.makes_tokens(),
                "people": seed.HANDLES,
                "bountyStatuses": BOUNTY_STATUSES,
                "frames": {"messages": _schemas(MessagesFrame), "events": _schemas(EventsFrame)},
            }
        )


class ConsoleTokenHandler(_ConsoleHandler):
    """``POST /console/token``: a token of alice or bob."""

    async def prepare(self) -> None:
        """Be nothing that is there for whom it is not for."""
        await super().prepare()
        if self.context.settings.production:
            raise nothing_here()
        if not self.makes_tokens():
            raise AppError(ErrorCode.FORBIDDEN, "Tokens are made for pages of this server on this machine only.")

    def post(self) -> None:
        """Answer with a token, valid for a day."""
        handle = self.body(WhoToBe).user
        user_id = seed.HANDLES[handle]
        self.answer({"token": self.context.development_tokens.make(user_id, handle), "userId": user_id})


def _schemas(union: Any) -> dict[str, Any]:
    """Return {frame type: JSON Schema of its fields}."""
    kinds = get_args(union)
    _, components = msgspec.json.schema_components(kinds, schema_hook=schema_of_custom)
    return {kind.__struct_config__.tag: components[kind.__name__] for kind in kinds}
