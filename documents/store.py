"""Both documents as bytes, made when first asked for."""

from collections.abc import Callable

import msgspec

from documents.asyncapi import asyncapi
from documents.openapi import openapi
from documents.schemas import Schema
from handlers.route import Route

_MAKERS: dict[str, Callable[[list[Route], str], Schema]] = {"openapi": openapi, "asyncapi": asyncapi}
NAMES = tuple(_MAKERS)


class Documents:
    """The documents of these routes, in this version."""

    def __init__(self, routes: list[Route], version: str) -> None:
        self._routes = routes
        self._version = version
        self._made: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Return the document ``openapi`` or ``asyncapi`` as JSON in UTF-8, for people to read too."""
        if name not in self._made:
            document = _MAKERS[name](self._routes, self._version)
            self._made[name] = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        return self._made[name]
