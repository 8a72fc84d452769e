"""AsyncAPI 3 of both WebSockets: every frame from the unions in protocol/, what a socket takes from its handler."""

from typing import Any, get_args

from documents.schemas import Schema, description, parameters, schemas
from handlers.route import Route
from handlers.socket import SUBPROTOCOL, SocketHandler
from protocol.codes import CloseCode

_ABOUT = (
    "A frame is one JSON object in one text frame, told apart by its `type`; names are camelCase, ids are UUIDs, times "
    "are ISO 8601 in UTC with milliseconds. Fields that are not known are ignored, by both sides. An error never "
    "closes a socket, unless `x-close-codes` says so. REST stands in openapi.json."
)
_SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "query": {
        "type": "httpApiKey",
        "name": "token",
        "in": "query",
        "description": f"For who can set no header; or the subprotocols `{SUBPROTOCOL}, bearer.<token>`.",
    },
}


def asyncapi(routes: list[Route], version: str) -> Schema:
    """Return the document."""
    sockets = {route.path: route.handler for route in routes if issubclass(route.handler, SocketHandler)}
    channels: Schema = {}
    operations: Schema = {}
    named: dict[str, Schema] = {}
    for path, handler in sockets.items():
        name = path.split("/")[1]
        takes, taken = _messages(handler.takes, "Client", sent=False)
        sends, given = _messages(handler.sends, "Server", sent=True)
        named |= taken | given
        channels[name] = {
            "address": path,
            "description": description(handler),
            "messages": takes | sends,
            "bindings": {"ws": {"method": "GET", "query": _query(handler), "bindingVersion": "0.1.0"}},
        }
        operations |= _operations(name, handler, list(sends))
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "BountyExpo Realtime", "version": version, "description": _ABOUT, "license": {"name": "MIT"}},
        "defaultContentType": "application/json",
        "servers": {"development": {"host": "localhost:3001", "protocol": "ws"}},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": dict(sorted(named.items())), "securitySchemes": _SECURITY},
        "x-close-codes": [
            {"code": code.value, "name": code.name, "meaning": code.meaning, "reconnect": code.reconnect}
            for code in CloseCode
        ],
    }


def frames_of(union: Any) -> tuple[Any, ...]:
    """Return the frames that a union is of, or the one that it is."""
    return get_args(union) or (union,)


def _messages(union: Any, side: str, *, sent: bool) -> tuple[Schema, dict[str, Schema]]:
    """Return {key: message} of a union of frames, and the schemas that they refer to."""
    kinds = frames_of(union)
    references, named = schemas(kinds, side, sent=sent)
    messages = {
        _key(kind, side): {"name": _tag(kind), "summary": description(kind), "payload": reference}
        for kind, reference in zip(kinds, references, strict=True)
    }
    return messages, named


def _operations(channel: str, handler: type[SocketHandler], sends: list[str]) -> Schema:
    at = {"$ref": f"#/channels/{channel}"}
    said: Schema = {} if handler.public else {"security": [_reference(f"securitySchemes/{name}") for name in _SECURITY]}
    operations: Schema = {
        f"{channel}.send": {
            "action": "send",
            "channel": at,
            "summary": "What the server sends.",
            "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in sends],
            **said,
        }
    }
    for kind in frames_of(handler.takes):
        operations[f"{channel}.{_tag(kind)}"] = one = {
            "action": "receive",
            "channel": at,
            "summary": description(kind),
            "messages": [{"$ref": f"#/channels/{channel}/messages/{_key(kind, 'Client')}"}],
            **said,
        }
        answer = handler.answers.get(kind)
        if answer is not None:
            reply = {"$ref": f"#/channels/{channel}/messages/{_key(answer, 'Server')}"}
            one["reply"] = {"channel": at, "messages": [reply]}
    return operations


def _query(handler: type[SocketHandler]) -> Schema:
    properties = {name: schema for name, schema, _ in parameters(handler.query_type)}
    return {"type": "object", "description": description(handler.query_type), "properties": properties}


def _reference(what: str) -> Schema:
    return {"$ref": f"#/components/{what}"}


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _key(kind: Any, side: str) -> str:
    return f"{side.lower()}.{_tag(kind)}"
