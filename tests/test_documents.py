"""Both documents: up to date, valid, whole, served, and true of the server as schemathesis tries it."""

import asyncio
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tornado.web import RequestHandler, StaticFileHandler

import protocol
from documents.asyncapi import frames_of
from documents.openapi import calls
from documents.store import NAMES, Documents
from handlers.rest import RestHandler
from handlers.socket import SocketHandler
from protocol.codes import CloseCode
from protocol.inbound import ClientFrame
from protocol.outbound import ServerFrame
from routes import ROUTES
from tests.contract import CONTRACT
from tests.harness import Server, token
from tests.node_packages import node_packages  # noqa: F401
from version import VERSION

ROOT = Path(__file__).parent.parent
# Ten seconds by itself; the tests beside it take their share.
_SCHEMATHESIS_TIMEOUT_S = 110


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_ones_are_up_to_date(name: str) -> None:
    """docs/ holds what the types say now."""
    made = Documents(ROUTES, VERSION).read(name)
    assert (ROOT / "docs" / f"{name}.json").read_bytes() == made, "run: make docs"


@pytest.mark.parametrize("name", NAMES)
async def test_they_are_served(server: Server, name: str) -> None:
    """``/docs/…`` has them, for anyone."""
    answer = await server.rest("GET", f"/docs/{name}.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert answer.body == json.loads(Documents(ROUTES, VERSION).read(name))


def test_openapi_is_valid() -> None:
    """By the specification's own schema and rules."""
    OpenAPIV31SpecValidator(CONTRACT.openapi).validate()


@pytest.mark.timeout(120)  # the packages may have to be installed
def test_asyncapi_is_valid(node_packages: Path) -> None:  # noqa: F811
    """By the schema that the AsyncAPI project publishes; and every reference leads somewhere."""
    schema = node_packages / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    jsonschema_rs.validator_for(json.loads(schema.read_text())).validate(CONTRACT.asyncapi)
    for reference in _references(CONTRACT.asyncapi):
        place = CONTRACT.asyncapi
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_every_route_is_documented() -> None:
    """A REST call has its operation, a socket its channel; what is neither is a file."""
    undescribed = [f"{call.method} {call.route.path}" for call in calls(ROUTES) if call.operation is None]
    assert undescribed == [], "say what they take and give with @operation(…)"
    for route in ROUTES:
        if issubclass(route.handler, SocketHandler):
            assert route.path in [channel["address"] for channel in CONTRACT.asyncapi["channels"].values()]
        elif issubclass(route.handler, RestHandler):
            assert CONTRACT.openapi["paths"][route.path]
        else:
            assert issubclass(route.handler, StaticFileHandler), f"{route.pattern} is no call, no socket and no file"


def test_every_frame_is_documented() -> None:
    """Each frame that protocol/ has is one that a socket takes or sends."""
    sockets: list[type[RequestHandler]] = [route.handler for route in ROUTES]
    handlers = [handler for handler in sockets if issubclass(handler, SocketHandler)]
    modules = [importlib.import_module(f"protocol.{each.name}") for each in pkgutil.iter_modules(protocol.__path__)]
    for base, side in ((ClientFrame, "takes"), (ServerFrame, "sends")):
        known = {kind for handler in handlers for kind in frames_of(getattr(handler, side))}
        kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
        there = {kind for kind in kinds if issubclass(kind, base) and not kind.__subclasses__()}
        assert len(there) > 10 and there - known == set()


def test_what_a_socket_takes_it_acts_on() -> None:
    """The documents' frames are the rows of the handler's table."""
    for route in ROUTES:
        if issubclass(route.handler, SocketHandler):
            assert set(frames_of(route.handler.takes)) == set(route.handler.actions)


def test_every_close_code_is_told() -> None:
    """With what to do about it."""
    assert [code["code"] for code in CONTRACT.asyncapi["x-close-codes"]] == [code.value for code in CloseCode]
    assert all(code["meaning"] and code["reconnect"] for code in CONTRACT.asyncapi["x-close-codes"])


@pytest.mark.slow
@pytest.mark.gen_test(timeout=_SCHEMATHESIS_TIMEOUT_S)
@pytest.mark.timeout(_SCHEMATHESIS_TIMEOUT_S + 10)
async def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """It makes calls from the document, right and wrong ones, and holds the answers against it."""
    user = await server.person()
    other = await server.person()
    await server.conversation(user, other)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/docs/openapi.json"),
        *("--header", f"Authorization: Bearer {token(user)}", "--seed", "1", "--max-examples", "15"),
        # A bounty that is there gives 404 for a hunter who is not: that check takes it for the bounty's.
        *("--exclude-checks", "ensure_resource_availability"),
        *("--generation-deterministic", "--no-color", "--workers", "2"),
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _SCHEMATHESIS_TIMEOUT_S - 5)
    assert process.returncode == 0, output.decode()[-20_000:]


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [reference for each in value for reference in _references(each)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [reference for each in value.values() for reference in _references(each)]
