"""The quick reference is whole, and its examples run: curl in a shell, JavaScript in Node, React rendered."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from protocol.codes import CloseCode, ErrorCode
from storage.seed import CONVERSATION
from tests.contract import CONTRACT
from tests.node_packages import node_packages  # noqa: F401
from tests.serving import Serving, serving

# Whoever comes first installs the packages, the others wait; then a server is started.
pytestmark = pytest.mark.timeout(150)

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "quick-reference.md").read_text()
LIBRARY = ROOT / "static" / "bountyexpo-realtime.js"
NODE_FILES = ROOT / "tests" / "node"
_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "127.0.0.1:3001"
_RUN_S = 40
# What can't be had on demand: an hour's end, and the end of the server that all examples share.
_RARE = {"auth.expiring", "server.draining", "error", "conversation.new"}


class Block(Struct, frozen=True):
    """A fenced block: its language, the word after it, its text."""

    language: str
    role: str
    text: str


BLOCKS = [Block(language, role, text) for language, role, text in _BLOCK.findall(TEXT)]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    """The server as ``make run`` starts it, on a free port."""
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def environment(server: Serving) -> dict[str, str]:
    """What the examples need of it."""
    tokens = {"TOKEN": server.token("alice"), "BOBS_TOKEN": server.token("bob")}
    tokens["ADMIN_TOKEN"] = server.token("--admin", "alice")
    return {**server.environment, **tokens, "URL": server.url, "CHAT": CONVERSATION}


def run(command: list[str], **given: Any) -> str:
    """Run a command; return its output, and fail with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_S, check=False, **given)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_curl(server: Serving, environment: dict[str, str]) -> None:
    """Each answer has the form of the one that is printed below its call."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed: apt install curl")
    lines = ["set -euo pipefail", 'curl() { command curl -sS --fail-with-body "$@"; }']
    expected = {}
    for number, (block, following) in enumerate(zip(BLOCKS, [*BLOCKS[1:], None], strict=True)):
        if block.language == "sh":
            lines += [f"echo '@@ {number}'", block.text]
            if following and following.language == "json":
                expected[number] = json.loads(following.text)
    script = "\n".join(lines).replace(_ADDRESS, server.address).replace(".venv/bin/python", sys.executable)
    output = run(["bash", "-c", script], cwd=ROOT, env=environment)
    answers = {int(number): text for number, text in re.findall(r"@@ (\d+)\n(.*?)(?=@@ |\Z)", output, re.DOTALL)}
    assert len(expected) > 10
    for number, example in expected.items():
        assert form(json.loads(answers[number])) == form(example), BLOCKS[number].text


def form(value: Any) -> Any:
    """Return what a JSON value looks like: names, and kinds of values; ids and words may differ, and null is any."""
    if isinstance(value, dict):
        return {name: form(each) for name, each in sorted(value.items()) if each is not None and name != "lastMessage"}
    if isinstance(value, list):
        return [form(each) for each in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_javascript(server: Serving, environment: dict[str, str], node_packages: Path, tmp_path: Path) -> None:  # noqa: F811
    """All plain examples, as one module, and every frame that can be had on demand is seen in them."""
    lines = [(NODE_FILES / "prelude.mjs").read_text()]
    for number, block in enumerate(BLOCKS):
        if (block.language, block.role) == ("js", ""):
            lines += [f"example({number});", block.text]
    lines.append("console.log(JSON.stringify([...seen])); process.exit(0);")
    module = tmp_path / "examples.mjs"
    module.write_text("\n".join(lines).replace(_ADDRESS, server.address))
    seen = set(json.loads(run(node(module), env=environment).splitlines()[-1]))
    wanted = {
        f"{channel['address']} {message['name']}"
        for channel in CONTRACT.asyncapi["channels"].values()
        for key, message in channel["messages"].items()
        if key.startswith("server.") and message["name"] not in _RARE
    }
    assert wanted - seen == set()


def test_the_library(server: Serving, environment: dict[str, str], node_packages: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its example in JavaScript."""
    [block] = [block for block in BLOCKS if block.role == "lib"]
    shutil.copy(LIBRARY, tmp_path / "bountyexpo-realtime.js")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    module = tmp_path / "library.mjs"
    prelude = "const getToken = async () => process.env.TOKEN;\n"
    module.write_text(prelude + block.text.replace(_ADDRESS, server.address))
    output = run(node(module), env=environment)
    assert "stored as" in output and "in the history" in output


@pytest.mark.parametrize("framework", ["react", "native"])
def test_components(server: Serving, environment: dict[str, str], node_packages: Path, framework: str) -> None:  # noqa: F811
    """Rendered, typed into and pressed, with another person at the other end. React Native's by react-native-web."""
    with tempfile.TemporaryDirectory(dir=node_packages) as name:
        directory = Path(name)
        for file in [*NODE_FILES.glob("*.mjs"), LIBRARY]:
            shutil.copy(file, directory)
        for role, target in (("react", "hooks.jsx"), ("native", "screen.jsx")):
            [block] = [block for block in BLOCKS if block.role == role]
            (directory / target).write_text(block.text)
        bundle = directory / "bundle.mjs"
        esbuild = str(node_packages / "node_modules" / ".bin" / "esbuild")
        options = ["--bundle", "--platform=node", "--format=esm", "--jsx=automatic", "--external:jsdom"]
        options += ["--alias:react-native=react-native-web", "--log-level=error", f"--outfile={bundle}"]
        # React's CommonJS asks for modules of Node.
        options.append(
            '--banner:js=import { createRequire } from "node:module"; const require = createRequire(import.meta.url);'
        )
        run([esbuild, str(directory / f"{framework}.mjs"), *options], cwd=directory)
        assert run(node(bundle), env=environment).strip().endswith("seen")


def node(module: Path) -> list[str]:
    """Return the command that runs a module, with a WebSocket, which Node 22 has and 20 has on demand."""
    version = int(run(["node", "--version"]).strip().lstrip("v").split(".")[0])
    if version < 20:
        pytest.skip(f"Node.js {version} is too old: 20 or newer is needed")
    return ["node", *(["--experimental-websocket"] if version < 22 else []), str(module)]


def test_every_example_of_a_frame_is_as_the_documents_say() -> None:
    """Each JSON block that has a ``type``; and every frame of the server has one."""
    shown = set()
    for block in BLOCKS:
        frame = json.loads(block.text) if block.language == "json" else {}
        if "type" not in frame:
            continue
        shown.add(frame["type"])
        channels = CONTRACT.asyncapi["channels"].values()
        homes = [c["address"] for c in channels if f"server.{frame['type']}" in c["messages"]]
        problems = []
        for home in homes:
            try:
                CONTRACT.check_frame(home, "Server", frame)
            except AssertionError as error:
                problems.append(str(error))
        assert homes and len(problems) < len(homes), (frame, problems)
    for channel in CONTRACT.asyncapi["channels"].values():
        for key, message in channel["messages"].items():
            assert key.startswith("client.") or message["name"] in shown, f"{message['name']} has no example"


def test_every_frame_of_a_client_is_sent_by_an_example() -> None:
    """In plain JavaScript, on the socket that takes it."""
    sent = "".join(block.text for block in BLOCKS if block.language == "js")
    for channel in CONTRACT.asyncapi["channels"].values():
        place = channel["address"].split("/")[1]
        names = ("alice", "bob") if place == "messages" else (place,)
        for key, message in channel["messages"].items():
            if key.startswith("client."):
                assert any(f'{name}.send("{message["name"]}"' in sent for name in names), message["name"]


def test_every_call_has_its_examples() -> None:
    """A heading, and below it one in curl and one in JavaScript."""
    for path, methods in CONTRACT.openapi["paths"].items():
        for method in methods:
            call = f"`{method.upper()} {path}`"
            sections = [part for part in TEXT.split("\n### ") if call in part.partition("\n")[0]]
            assert len(sections) == 1, f"{call} has no section"
            languages = {language for language, _, _ in _BLOCK.findall(sections[0])}
            assert {"sh", "js"} <= languages, call


def test_every_code_is_explained() -> None:
    """Errors and closes."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    heads = " ".join(row.split("|")[1] for row in rows)
    assert [code.name for code in ErrorCode if f"`{code.name}`" not in heads] == []
    assert [code.value for code in CloseCode if str(code.value) not in heads] == []
    for code in ErrorCode:
        [row] = [row for row in rows if f"`{code.name}`" in row.split("|")[1] and row.count("|") == 4][:1]
        status = row.split("|")[2].strip()
        assert status in ("", str(code.status)), code
