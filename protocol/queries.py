"""What stands in the queries and headers of REST calls, and in those of the sockets' addresses."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.codes import AppError, ErrorCode
from protocol.inbound import MAX_TOPICS, BountyStatus, Id, decode_custom, reason_of

_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)


class Query(Struct, rename="camel", kw_only=True):
    """Any call's query."""


# The largest that `[0-9]{1,18}` can say, and so well within Postgres' bigint.
QuerySeq = Annotated[int, Meta(ge=0, le=10**18 - 1)]
PageSize = Annotated[int, Meta(ge=1, le=200)]


# Headers of `POST /api/conversations/{id}/messages`.
IdempotencyKey = Annotated[
    str,
    Meta(
        description="The message's key, where the body has no ``clientMessageId``.",
        extra_json_schema={"pattern": "^[!-~]([ -~]{0,62}[!-~])?$"},
    ),
]
OwnConnection = Annotated[
    str, Meta(description="The sender's own socket: their other ones get the message too, this one does not.")
]


class HistoryQuery(Query, kw_only=True):
    """A page of messages: by number, 1 being the newest, or the ``limit`` ones before or after a ``seq``."""

    page: Annotated[int, Meta(ge=1, le=10**9)] = 1
    limit: PageSize = 50
    before: QuerySeq | None = None
    after: QuerySeq | None = None


class BountiesQuery(Query, kw_only=True):
    """A page of bounties, of one status only if it is given."""

    status: BountyStatus | None = None
    page: Annotated[int, Meta(ge=1, le=10_000)] = 1
    limit: PageSize = 50


class NotificationsQuery(Query, kw_only=True):
    """A page of notifications, unread ones only if asked for; ``before`` is the id of the last one seen."""

    unread: Literal["true", "false"] = "false"
    limit: PageSize = 50
    before: Id | None = None


class EventsQuery(Query, kw_only=True):
    """The event stream's: only these bounties (may be repeated); resume after this event."""

    bounty_id: Annotated[list[Id], Meta(max_length=MAX_TOPICS)] | UnsetType = UNSET
    last_event_id: QuerySeq | UnsetType = UNSET


class TokenQuery(Query, kw_only=True):
    """A socket's: the token, for who can set no header."""

    token: str | UnsetType = UNSET


class MessagesQuery(TokenQuery, kw_only=True):
    """The messaging socket's: the token, for who can set no header; ``replay=0`` skips the offline queue."""

    replay: Literal["0", "1"] = "1"


class SpanQuery(Query, kw_only=True):
    """How far back: the last hour by the minute, the last day by the hour, the last 30 days by the day."""

    span: Literal["hour", "day", "month"] = "day"


Q = TypeVar("Q", bound=Query)


def decode_query(given: Mapping[str, str], kind: type[Q]) -> Q:
    """Return a call's query as ``kind``; raise ``AppError`` INVALID_REQUEST naming the parameter.

    Whole numbers are digits and nothing else.
    """
    values = {name: int(text) if _WHOLE.fullmatch(text) else text for name, text in given.items()}
    try:
        return msgspec.convert(values, kind, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        expected, _, name = reason_of(error, kind).partition(" - at `$.")
        reason = f"`{name.rstrip('`')}` is wrong: {expected[0].lower()}{expected[1:]}."
        raise AppError(ErrorCode.INVALID_REQUEST, reason) from None
