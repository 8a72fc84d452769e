"""What the client library's users read: its types, the document's examples, what it says of wrong options."""

import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from protocol.sockets import EventsServerFrame, MessagesServerFrame
from storage.seed import BOUNTY
from tests.browser import ROOT, LiveServer
from tests.client_scripts import TOKENS, Node, Script
from tests.node_packages import node_packages  # noqa: F401  # a fixture

# Servers are started and killed, and the machine may be busy with other tests.
pytestmark = pytest.mark.timeout(120)


def test_a_client_without_a_websocket_says_so(node: Node) -> None:
    """Wrong options are told where they are given."""
    seen = node.run(
        """
        const message = (make) => { try { make(); } catch (error) { return error.message; } };
        const url = "http://127.0.0.1:1", getToken = () => "x";
        return [
          message(() => new lib.Realtime({ url, getToken, WebSocket: null })),
          message(() => new lib.Realtime({ url: "localhost:3001", getToken })),
          message(() => new lib.Realtime({ url })),
          message(() => new lib.Realtime({ url, getToken }).send("c", "t", { clientMessageId: "x".repeat(65) })),
          message(() => new lib.Realtime({ url, getToken }).markRead("c", undefined)),
          message(() => new lib.Realtime({ url, getToken }).startAfter("c", "7")),
        ];
        """
    )
    words = ("option", "url", "getToken", "64", "seq", "seq")
    assert [word for word, text in zip(words, seen, strict=True) if not re.search(word, text or "")] == []


def test_the_document_s_examples(node: Node, live: LiveServer) -> None:
    """The first three of docs/client-library.md do what they say."""
    text = (ROOT / "docs" / "client-library.md").read_text()
    examples = [part.split("```")[0] for part in text.split("```js\n")[1:4]]
    body = "\n".join(re.sub(r"^import .*\n", "", example, flags=re.MULTILINE) for example in examples)
    assert "for await" in body and "BountyEvents" in body
    body = body.replace("https://realtime.example", live.url).replace(
        "events.connect();", "events.connect(); change(realtime);"
    )
    script = Script(node, live.url)
    script(
        """
        const { Realtime, BountyEvents } = lib;
        const session = async () => ({ data: { session: { access_token: alice_token } }, error: null });
        const supabase = { auth: { getSession: session, refreshSession: session } };
        const conversationId = CHAT, shown = (state.shown = []);
        const show = ({ text }) => shown.push(text), tick = () => {}, showTyping = () => {}, showState = () => {};
        const showStatus = (id, status) => (state.status = status);
        const change = async (realtime) => {
          state.realtime = realtime;
          await realtime.request("POST", `/api/bounties/${BOUNTY}/status`, { status: "completed" });
        };
        state.run = (async () => { BODY })();
        """.replace("BODY", body),
        BOUNTY=BOUNTY,
        **TOKENS,
    )
    script("await until(() => state.shown.length >= 2);")  # by the event, and by the loop
    script(
        "const other = client(bob_token); await other.connect(); await other.send(CHAT, 'bye'); other.close();",
        **TOKENS,
    )
    script("await state.run; await until(() => state.status === 'completed'); state.realtime.close();")
    assert script("return state.shown;") == ["Is the cat back?", "Is the cat back?", "bye", "bye"]


def test_the_types_name_what_there_is(node: Node) -> None:
    """Every public method and property stands in the .d.ts, and nothing that is not there."""
    there = node.run(
        """
        const found = {};
        for (const name of ["Realtime", "BountyEvents", "RealtimeError"]) {
          const names = Object.getOwnPropertyNames(lib[name].prototype).filter((key) => key !== "constructor");
          const made = name === "RealtimeError" ? new lib[name]("c", "m")
            : new lib[name]({ url: "http://127.0.0.1:1", getToken: () => "x" });
          found[name] = [...names, ...Object.keys(made).filter((key) => !["name", "log"].includes(key))].sort();
        }
        return { found, exports: Object.keys(lib).sort() };
        """
    )
    types = (ROOT / "static" / "bountyexpo-realtime.d.ts").read_text()
    for name, members in there["found"].items():
        body = types[types.index(f"export class {name} ") :]
        body = re.sub(r"/\*\*.*?\*/", "", body[: body.index("\n}\n")], flags=re.DOTALL)
        named = set(re.findall(r"^  (?:readonly )?(\w+)\??[:(]", body, re.MULTILINE)) - {"constructor"}
        assert named == set(members)
    assert there["exports"] == sorted(re.findall(r"^export class (\w+)", types, re.MULTILINE))


def test_the_types_know_every_frame() -> None:
    """What the server sends is handed to listeners under its type, so each type is one that they can be made for."""
    types = (ROOT / "static" / "bountyexpo-realtime.d.ts").read_text()
    shared = types.split("interface SharedEvents {")[1].split("\n}")[0]
    for name, frames in (("RealtimeEvents", MessagesServerFrame), ("BountyEventsEvents", EventsServerFrame)):
        events = shared + types.split(f"interface {name} extends SharedEvents {{")[1].split("\n}")[0]
        known = set(re.findall(r'^  "?([a-z.]+)"?: ', events, re.MULTILINE))
        assert {str(kind.__struct_config__.tag) for kind in get_args(frames)} - known == set()


def test_the_types_fit_their_use(node_packages: Path) -> None:  # noqa: F811
    """A strict compiler takes what an app does, and refuses what would go wrong when it runs."""
    compiler = node_packages / "node_modules" / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "nodenext"]
    done = subprocess.run(
        ["node", str(compiler), *options, "tests/node/types.ts"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
