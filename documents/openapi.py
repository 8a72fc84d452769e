"""OpenAPI 3.1 of the REST calls: addresses from the route table, the rest from the handlers and their types."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_origin

from msgspec import Struct

from documents.schemas import Schema, description, parameters, schemas
from handlers.operation import Operation, operation_of
from handlers.rest import RestHandler
from handlers.route import Route
from protocol.answers import Failure
from protocol.codes import ErrorCode

_METHODS = ("get", "post", "put", "patch", "delete")
_PARAMETER = re.compile(r"\{(\w+)\}")
_FAILURE = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
_HEADERS: dict[str, tuple[str, Schema]] = {
    "X-Request-Id": ("The request's own, or a new one: name it when you ask for help.", {"type": "string"}),
    "Retry-After": ("Seconds to wait.", {"type": "integer", "minimum": 1}),
    "X-RateLimit-Limit": ("Calls that may be made at once.", {"type": "integer"}),
    "X-RateLimit-Remaining": ("Calls that are left now.", {"type": "integer"}),
    "X-RateLimit-Reset": ("Seconds until all are.", {"type": "integer"}),
}
_COUNTED = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_ABOUT = (
    "What the app asks for, beside its WebSockets (see asyncapi.json). Bodies are JSON, names are camelCase, ids are "
    "UUIDs, times are ISO 8601 in UTC with milliseconds. Fields that are not known are ignored, by both sides. "
    "GET also answers HEAD; every address answers OPTIONS, for CORS."
)


class Call(Struct, frozen=True):
    """One method of one address."""

    route: Route
    method: str
    operation: Operation | None
    summary: str

    @property
    def handler(self) -> type[RestHandler]:
        """Whose method it is."""
        assert issubclass(self.route.handler, RestHandler)
        return self.route.handler


def calls(routes: list[Route]) -> Iterator[Call]:
    """Yield every REST call; one that nothing is said of has no ``operation``."""
    for route in routes:
        if not issubclass(route.handler, RestHandler):
            continue
        for method in _METHODS:
            function = getattr(route.handler, method)
            if not function.__module__.startswith("tornado."):
                yield Call(route, method, operation_of(function), description(function))


def openapi(routes: list[Route], version: str) -> Schema:
    """Return the document."""
    described = [call for call in calls(routes) if call.operation is not None]
    paths: dict[str, Any] = defaultdict(dict)
    for call in described:
        paths[call.route.path][call.method] = _operation(call)
    bodies = [call.operation.body for call in described if call.operation and call.operation.body]
    answers = [call.operation.answer for call in described if call.operation and _is_struct(call.operation.answer)]
    _, taken = schemas(dict.fromkeys(bodies), sent=False)
    _, given = schemas(dict.fromkeys([*answers, Failure]), sent=True)
    clashes = [name for name in taken.keys() & given.keys() if taken[name] != given[name]]
    assert not clashes, f"a body and an answer are both called {clashes}"
    return {
        "openapi": "3.1.0",
        "info": {"title": "BountyExpo Realtime", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted((taken | given).items())),
            "headers": {
                name: {"description": text, "schema": schema, "required": name == "X-Request-Id"}
                for name, (text, schema) in _HEADERS.items()
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(call: Call) -> Schema:
    operation, handler = call.operation, call.handler
    assert operation is not None
    needs_token = handler.needs_token(call.method.upper())
    said: Schema = {
        "operationId": call.method + handler.__name__.removesuffix("Handler"),
        "summary": call.summary,
        "tags": [_tag(call.route.path)],
        "security": [{"bearer": []}] if needs_token else [],
        "parameters": _parameters(call.route.path, operation),
        "responses": _answers(call, operation) | _failures(call, operation),
    }
    if operation.query:
        said["description"] = description(operation.query)
    if operation.body:
        reference = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        said["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return said


def _parameters(path: str, operation: Operation) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in _PARAMETER.findall(path)
    ]
    for name, schema, required in parameters(operation.query) if operation.query else ():
        found.append({"name": name, "in": "query", "required": required, "schema": schema})
    for name, kind in operation.headers.items():
        found.append({"name": name, "in": "header", "schema": schemas([kind], sent=False)[0][0]})
    return found


def _answers(call: Call, operation: Operation) -> Schema:
    answer, content = operation.answer, None
    if _is_struct(answer):
        content = {operation.media_type: {"schema": {"$ref": f"#/components/schemas/{answer.__name__}"}}}
    elif answer is not None:
        content = {operation.media_type: {"schema": schemas([answer], sent=True)[0][0]}}
    text = description(answer) if _is_struct(answer) else "Done." if answer is None else "The answer."
    return {
        str(status): {"description": text, "headers": _headers(call, status)}
        | ({"content": content} if content else {})
        for status in operation.statuses
    }


def _failures(call: Call, operation: Operation) -> Schema:
    """Return the answers of what can go wrong, by status; each says which codes it may have."""
    codes = {*operation.errors, ErrorCode.INTERNAL}
    if call.handler.needs_token(call.method.upper()):
        codes |= {ErrorCode.AUTH_REQUIRED, ErrorCode.AUTH_FAILED}
    if call.handler.rate_limited:  # those that are not counted do without the store
        codes |= {ErrorCode.RATE_LIMITED, ErrorCode.STORE_UNAVAILABLE}
    if operation.body:
        codes |= {ErrorCode.INVALID_JSON, ErrorCode.TOO_LARGE}
    # The host and the headers of any request can be malformed.
    codes.add(ErrorCode.INVALID_REQUEST)
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in ErrorCode:
        if code in codes and code.status not in operation.statuses:
            by_status[code.status].append(f"`{code.name}`")
    return {
        str(status): {"description": ", ".join(names), "headers": _headers(call, status), "content": _FAILURE}
        for status, names in sorted(by_status.items())
    }


def _headers(call: Call, status: int) -> Schema:
    names = ["X-Request-Id"]
    if call.handler.rate_limited:
        names += _COUNTED
    if status in (429, 503):
        names.append("Retry-After")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"]:
        return parts[1]
    return parts[0] if parts and parts[0] not in ("health", "events", "messages") else "status"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Struct)
