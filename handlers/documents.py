"""The API's documents, as the server that answers has them."""

from typing import Any, ClassVar

from handlers.health import OpenHandler
from handlers.operation import operation


class _DocumentHandler(OpenHandler):
    name: ClassVar[str]

    def _send(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(self.context.document(self.name))


class OpenApiHandler(_DocumentHandler):
    """``/docs/openapi.json``"""

    name = "openapi"

    @operation(answer=dict[str, Any])
    def get(self) -> None:
        """Return the REST calls' description, OpenAPI 3.1."""
        self._send()


class AsyncApiHandler(_DocumentHandler):
    """``/docs/asyncapi.json``"""

    name = "asyncapi"

    @operation(answer=dict[str, Any])
    def get(self) -> None:
        """Return the WebSockets' description, AsyncAPI 3."""
        self._send()
