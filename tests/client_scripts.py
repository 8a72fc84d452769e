"""Runs scripts on the client library, in Node.js and in a page of Chromium, against a real server."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from storage.seed import ALICE, BOB, CONVERSATION
from tests.browser import ROOT, LiveServer
from tests.harness import token
from tests.node_packages import node_packages  # noqa: F401  # a fixture

# What every script begins with: clients that note what they are told.
_PRELUDE = """
globalThis.CHAT ??= %(chat)s;
globalThis.until ??= async (condition, ms = 15000) => {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`never: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
globalThis.client ??= (token, options = {}) => {
  const getToken = typeof token === "function" ? token : () => token;
  const one = new lib.Realtime({ url: %(url)s, getToken, ...options });
  one.log = { message: [], state: [], failed: [], error: [], traffic: [] };
  for (const type of Object.keys(one.log)) one.on(type, (event) => one.log[type].push(event));
  for (const type of ["message.delivered", "message.read", "typing.start", "presence.update", "auth.refreshed"]) {
    one.log[type] = [];
    one.on(type, (event) => one.log[type].push(event));
  }
  return one;
};
globalThis.held ??= (one) => one.log.message.map(({ seq, text, senderId, clientMessageId }) =>
  [seq, text, senderId, clientMessageId]);
"""


class Node:
    """Runs scripts in one Node.js process."""

    def __init__(self, flags: list[str]) -> None:
        self._process = subprocess.Popen(
            ["node", "--no-warnings", *flags, "tests/node_driver.mjs"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._number = 0

    def run(self, code: str) -> Any:
        """Return what an async function with this body returns."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._number += 1
        self._process.stdin.write(json.dumps({"id": self._number, "code": code}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Tab:
    """Runs scripts in a page of the server's."""

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        page.goto(f"{url}/health")
        page.evaluate(
            "async () => { globalThis.lib = await import('/static/bountyexpo-realtime.js'); globalThis.state = {}; }"
        )

    def run(self, code: str) -> Any:
        """Return what an async function with this body returns."""
        return self._page.evaluate(f"async () => {{ {code} }}")


class Script:
    """JavaScript against one server."""

    def __init__(self, runtime: Node | Tab, url: str) -> None:
        self._runtime = runtime
        self._prelude = _PRELUDE % {"chat": json.dumps(CONVERSATION), "url": json.dumps(url)}

    def __call__(self, code: str, **values: Any) -> Any:
        """Run it, with constants of these names."""
        constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
        return self._runtime.run(self._prelude + constants + code)


def _websocket_flags() -> list[str] | None:
    """Return what Node.js has to be started with to have a WebSocket: from 22 on nothing; None where it has none."""
    for flags in ([], ["--experimental-websocket"]):
        command = ["node", *flags, "-p", "typeof WebSocket"]
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "function":
            return flags
    return None


@pytest.fixture
def node() -> Iterator[Node]:
    """A Node.js process; skips, and says so, where there is none."""
    flags = _websocket_flags() if shutil.which("node") else None
    if flags is None:
        pytest.skip("no Node.js 20 or newer on this system: the client library is not tested in it")
    process = Node(flags)
    yield process
    process.close()


Serve = Callable[..., LiveServer]


@pytest.fixture
def serve(dsn: str) -> Iterator[Serve]:
    """Start servers; settings as keywords."""
    servers: list[LiveServer] = []

    def start(**settings: Any) -> LiveServer:
        servers.append(LiveServer(dsn, **settings).start())
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(params=["node", "chromium"])
def script(request: pytest.FixtureRequest, live: LiveServer) -> Iterator[Script]:
    """Scripts against ``live``, in either runtime."""
    if request.param == "node":
        yield Script(request.getfixturevalue("node"), live.url)
        return
    browser: Browser = request.getfixturevalue("chromium")
    page = browser.new_page()
    yield Script(Tab(page, live.url), live.url)
    page.close()


TOKENS = {"ALICE": ALICE, "BOB": BOB, "alice_token": token(ALICE), "bob_token": token(BOB)}


def stored(server: LiveServer) -> list[list[Any]]:
    """Return the chat as the database has it."""
    rows = server.sql(
        "SELECT seq, text, sender_id::text, client_message_id FROM messages WHERE conversation_id = %s ORDER BY seq",
        CONVERSATION,
    )
    return [list(row) for row in rows]
