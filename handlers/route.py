"""An entry of the route table, which the documents are made from too."""

import re
from typing import Any

from msgspec import Struct
from tornado.web import RequestHandler

_GROUP = re.compile(r"\([^()]*\)")


class Route(Struct, frozen=True):
    """A pattern, whose requests it is, and what the handler is given besides the context."""

    pattern: str
    handler: type[RequestHandler]
    given: dict[str, Any] = {}

    @property
    def path(self) -> str:
        """The address with its parameter's name where the pattern has a group: what varies is always an id."""
        return _GROUP.sub("{id}", self.pattern).replace("\\", "")
