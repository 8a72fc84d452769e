"""What a REST call takes and gives, said once, at the method that does it: the OpenAPI document is made from this.

What is seen elsewhere is not said again: the address in the route table, the summary in the method's docstring,
whether a token is needed in the handler, what can go wrong with a body or a query in that there is one.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from protocol.codes import ErrorCode
from protocol.inbound import Body
from protocol.queries import Query

M = TypeVar("M", bound=Callable[..., Any])
_ATTRIBUTE = "operation"


class Operation(Struct, frozen=True, kw_only=True):
    """One call.

    ``answer`` is the answer's type, or None for an answer without a body; ``statuses`` go with it, the first being
    the usual one. ``headers`` are those it looks at, with their types; ``errors`` those that this call alone can give.
    ``media_type`` is the answer's.
    """

    answer: Any
    statuses: tuple[int, ...] = (200,)
    body: type[Body] | None = None
    query: type[Query] | None = None
    headers: dict[str, Any] = {}
    errors: tuple[ErrorCode, ...] = ()
    media_type: str = "application/json"


def operation(**said: Any) -> Callable[[M], M]:
    """Say what the method below takes and gives, in the fields of ``Operation``."""

    def note(method: M) -> M:
        setattr(method, _ATTRIBUTE, Operation(**said))
        return method

    return note


def operation_of(method: Callable[..., Any]) -> Operation | None:
    """Return what was said of a method."""
    found: Operation | None = getattr(method, _ATTRIBUTE, None)
    return found
