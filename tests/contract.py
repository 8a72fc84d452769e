"""What the documents say, as a judge of every frame and body that the tests see.

The documents let both sides ignore fields that they don't know. This judge does not: a field that the server sends
has to be in them.
"""

import json
import re
from typing import Any

import jsonschema_rs

from documents.store import Documents
from routes import ROUTES
from version import VERSION

# Answers to what is no call of ours: a wrong address, method or size.
_ALWAYS_POSSIBLE = {404, 405, 413, 431}


class Contract:
    """Both documents, compiled."""

    def __init__(self) -> None:
        documents = Documents(ROUTES, VERSION)
        self.asyncapi = json.loads(documents.read("asyncapi"))
        self.openapi = json.loads(documents.read("openapi"))
        self._sockets = {channel["address"] for channel in self.asyncapi["channels"].values()}
        self._frames = self._compiled_frames()
        self._calls = [(_pattern(path), methods) for path, methods in self.openapi["paths"].items()]
        self._bodies: dict[int, Any] = {}

    def check_frame(self, path: str, side: str, frame: dict[str, Any]) -> None:
        """Fail unless the documents have this frame, from the ``Client`` or ``Server``, at this address."""
        judge = self._frames.get((path, side, frame.get("type")))
        assert judge is not None, f"{path} has no {frame.get('type')!r} from the {side.lower()} in asyncapi.json"
        _check(judge, frame, f"{frame['type']} from the {side.lower()}")

    def check_unknown(self, path: str, frame: dict[str, Any]) -> None:
        """Fail if the documents have this frame from the client."""
        judge = self._frames.get((path, "Client", frame.get("type")))
        assert judge is None or not judge.is_valid(frame), f"{frame} is as the documents say"

    def check_call(self, method: str, path: str, body: bytes, status: int, headers: Any, answer: Any) -> None:
        """Fail unless the documents have this answer, and this body if it was taken."""
        address = path.partition("?")[0]
        operation = self.operation(method, address)
        if operation is None:
            is_known = status in _ALWAYS_POSSIBLE or method in ("OPTIONS", "HEAD") or address in self._sockets
            assert is_known, f"{method} {address} is not in openapi.json"
            return
        what = f"{method} {address} {status}"
        assert "X-Request-Id" in headers, what
        documented = operation["responses"].get(str(status))
        if documented is None:
            assert status in _ALWAYS_POSSIBLE, f"{what} is not in openapi.json"
            return
        content = documented.get("content")
        if content is None:
            assert answer is None, f"{what} has no body in openapi.json"
        elif "application/json" in content:
            _check(self._judge(content["application/json"]["schema"], closed=True), answer, what)
        if status < 300 and "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            _check(self._judge(schema, closed=False), json.loads(body), f"the body of {what}, which was taken,")

    def operation(self, method: str, address: str) -> Any:
        """Return what the documents have of a call, or None."""
        for pattern, methods in self._calls:
            if pattern.fullmatch(address):
                return methods.get(method.lower())
        return None

    def _compiled_frames(self) -> dict[tuple[str, str, str], Any]:
        judges = {}
        for channel in self.asyncapi["channels"].values():
            for key, message in channel["messages"].items():
                side = "Server" if key.startswith("server.") else "Client"
                judge = _compile(self.asyncapi, message["payload"], closed=side == "Server")
                judges[channel["address"], side, message["name"]] = judge
        return judges

    def _judge(self, schema: Any, *, closed: bool) -> Any:
        if id(schema) not in self._bodies:
            self._bodies[id(schema)] = _compile(self.openapi, schema, closed=closed)
        return self._bodies[id(schema)]


def _compile(document: Any, schema: Any, *, closed: bool) -> Any:
    schemas = document["components"]["schemas"]
    if closed:
        schemas = {name: _closed(each) for name, each in schemas.items()}
    return jsonschema_rs.Draft202012Validator({**schema, "components": {"schemas": schemas}}, validate_formats=True)


def _closed(schema: Any) -> Any:
    return {**schema, "additionalProperties": False} if "properties" in schema else schema


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(re.escape(part) for part in re.split(r"\{\w+\}", path)))


def _check(judge: Any, value: Any, what: str) -> None:
    error = next(judge.iter_errors(value), None)
    assert error is None, f"{what} is not as the documents say: {error.message} at {error.instance_path}"


CONTRACT = Contract()
