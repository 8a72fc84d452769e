"""The client library in Node.js and in a real Chromium, against a real server that is killed under it."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import psycopg2
import pytest
from playwright.sync_api import Browser, Page

from protocol.sockets import EventsServerFrame, MessagesServerFrame
from storage.seed import ALICE, BOB, BOUNTY, CONVERSATION
from tests.browser import ROOT, LiveServer
from tests.harness import token
from tests.node_packages import node_packages  # noqa: F401  # a fixture

# Servers are started and killed, and the machine may be busy with other tests.
pytestmark = pytest.mark.timeout(120)

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


def test_a_chat(script: Script, live: LiveServer) -> None:
    """Ack, message, receipts, typing, presence; both hold what the database has; the token is in no address."""
    seen = script(
        """
        state.alice = client(alice_token); state.bob = client(bob_token);
        await state.alice.connect(); await state.bob.connect();
        await until(() => state.alice.online.has(BOB));
        state.bob.typing(CHAT); state.bob.typing(CHAT);
        await until(() => state.alice.log["typing.start"].length === 1);
        const ack = await state.alice.send(CHAT, "hello", { clientMessageId: "k1" });
        const again = await state.alice.send(CHAT, "hello", { clientMessageId: "k1" });
        await until(() => state.alice.log["message.delivered"].length);
        state.bob.markRead(CHAT, ack.seq);
        await until(() => state.alice.log["message.read"].length);
        await state.bob.send(CHAT, "hello yourself", { replyTo: ack.messageId });
        await until(() => state.alice.log.message.length === 2 && state.bob.log.message.length === 2);
        const typed = state.bob.log.traffic.filter(({ text }) => text.includes('"typing"')).length;
        state.bob.close();
        await until(() => !state.alice.online.has(BOB));
        return { ack, again, typed, alice: held(state.alice), bob: held(state.bob),
          replyTo: state.alice.log.message[1].replyTo, read: state.alice.log["message.read"][0].userId };
        """,
        **TOKENS,
    )
    assert seen["ack"]["seq"] == 1 and seen["again"]["messageId"] == seen["ack"]["messageId"]
    assert seen["again"]["duplicate"] is True, (
        "the same key again is asked of the server again, and is the same message"
    )
    assert seen["replyTo"] == seen["ack"]["messageId"] and seen["read"] == BOB and seen["typed"] == 1
    assert seen["alice"] == seen["bob"] == stored(live)
    assert live.sql("SELECT read_seq FROM conversation_participants WHERE user_id = %s", BOB) == [(1,)]


def test_through_kills_of_the_server(script: Script, live: LiveServer) -> None:
    """kill -9 four times while both write: in the end each holds, once and in order, what the database holds."""
    script(
        """
        state.alice = client(alice_token, { positions: { [CHAT]: 0 } });
        state.bob = client(bob_token, { positions: { [CHAT]: 0 } });
        state.acked = { alice: 0, bob: 0 }; state.writing = true;
        await state.alice.connect(); await state.bob.connect();
        const write = async (name) => {
          for (let number = 1; state.writing; ) {
            // However long a start takes, what has gathered by then is sent in good time.
            if (state[name].pending.length < 50) {
              state[name].send(CHAT, `${name} ${number}`).then(() => (state.acked[name] += 1));
              number += 1;
            }
            await new Promise((resolve) => setTimeout(resolve, 15));
          }
        };
        write("alice"); write("bob");
        """,
        **TOKENS,
    )
    for _ in range(4):
        script("const before = state.acked.alice; await until(() => state.acked.alice >= before + 15);")
        live.kill()
        script("await until(() => state.alice.status.state === 'waiting' && state.bob.pending.length > 3);")
        live.start()
        script("state.alice.wake(); state.bob.wake(); await until(() => state.alice.status.state === 'open');")
    script("state.writing = false; await until(() => !state.alice.pending.length && !state.bob.pending.length);")
    database = stored(live)
    script(
        "await until(() => [state.alice, state.bob].every((one) => one.log.message.length >= count));",
        count=len(database),
    )
    assert script("return held(state.alice);") == database
    assert script("return held(state.bob);") == database
    assert [row[0] for row in database] == list(range(1, len(database) + 1))
    for name in ("alice", "bob"):  # each one's own in the order they were written
        numbers = [int(row[1].split()[1]) for row in database if row[1].startswith(name)]
        assert numbers == list(range(1, len(numbers) + 1))
    assert script("return state.alice.log.state.filter(({ state }) => state === 'open').length;") == 5


def test_a_loop_over_a_conversation(script: Script, live: LiveServer) -> None:
    """`for await` gives what is stored, then what comes, each once, over a killed server; `break` and abort end it."""
    seen = script(
        """
        state.alice = client(alice_token); state.bob = client(bob_token);
        await state.alice.connect(); await state.bob.connect();
        for (let n = 1; n <= 5; n += 1) await state.alice.send(CHAT, `m${n}`);
        state.got = [];
        state.loop = (async () => {
          for await (const message of state.bob.messages(CHAT, { after: 2 })) {
            state.got.push(message.seq);
            if (message.text === "last") break;
          }
          return "ended";
        })();
        state.stop = new AbortController();
        state.aborted = (async () => {
          for await (const message of state.bob.messages(CHAT, { signal: state.stop.signal })) state.live = message.seq;
          return "aborted";
        })();
        await until(() => state.got.length === 3);
        await state.alice.send(CHAT, "m6");
        await until(() => state.got.length === 4);
        return state.live;
        """,
        **TOKENS,
    )
    assert seen == 6
    live.kill()
    script("state.waiting = state.alice.send(CHAT, 'm7'); await until(() => state.bob.status.state === 'waiting');")
    live.start()
    seen = script(
        """
        state.alice.wake(); state.bob.wake();
        await state.waiting;
        await state.alice.send(CHAT, "last");
        state.stop.abort();
        return [await state.loop, await state.aborted, state.got];
        """
    )
    assert seen == ["ended", "aborted", [3, 4, 5, 6, 7, 8]]


def test_events_through_kills_of_the_server(script: Script, live: LiveServer) -> None:
    """What happened to bounties while the server was away comes once, in order, and is what the log has."""
    script(
        """
        state.events = new lib.BountyEvents({ url: URL_OF_SERVER });
        state.got = [];
        state.events.on("bounty.status", ({ eventId, status }) => state.got.push([eventId, status]));
        await state.events.connect();
        state.first = state.events.lastEventId;
        """,
        URL_OF_SERVER=live.url,
    )
    change = "UPDATE bounties SET status = %s WHERE id = %s"
    live.sql(change, "in_progress", BOUNTY)
    script("await until(() => state.got.length === 1);")
    for status in ("open", "completed"):
        live.kill()
        live.sql(change, status, BOUNTY)
        script("await until(() => state.events.status.state === 'waiting');")
        live.start()
        script(
            "state.events.wake(); await until(() => state.got.length === wanted);", wanted=2 if status == "open" else 3
        )
    # What the server relayed while we were away is asked for by its place.
    script(
        """
        state.events.close();
        state.other = new lib.BountyEvents({ url: URL_OF_SERVER });
        state.relayed = state.other.once("bounty.status");
        await state.other.connect();
        """,
        URL_OF_SERVER=live.url,
    )
    live.sql(change, "archived", BOUNTY)
    script("await state.relayed; state.other.close(); await state.events.connect();"
           "await until(() => state.got.length === 4);")  # fmt: skip
    first = script("return state.first;")
    log = live.sql("SELECT event_id, status FROM bounty_events WHERE event_id > %s ORDER BY event_id", first)
    assert script("return state.got;") == [list(row) for row in log]
    narrowed = script(
        """
        state.events.watch([STRANGER]);
        await state.events.once("subscribed");
        return [state.events.bountyIds, state.events.lastEventId];
        """,
        STRANGER=CONVERSATION,
    )
    assert narrowed == [[CONVERSATION], log[-1][0]]


def test_gaps_are_filled(node: Node, serve: Serve) -> None:
    """More was missed than one replay gives, one's own of another device among it: all of it comes, in order."""
    server = serve(replay_max_per_conversation=7, replay_max=10)
    script = Script(node, server.url)
    script(
        """
        state.alice = client(alice_token, { positions: { [CHAT]: 0 } });
        state.phone = client(bob_token, { autoDelivered: false });
        state.laptop = client(bob_token, { positions: { [CHAT]: 0 } });
        await Promise.all([state.alice.connect(), state.phone.connect(), state.laptop.connect()]);
        await state.alice.send(CHAT, "first");
        await until(() => state.laptop.log.message.length === 1);
        state.laptop.close();
        for (let n = 0; n < 30; n += 1) await (n % 3 ? state.alice : state.phone).send(CHAT, `away ${n}`);
        await state.laptop.connect();
        await until(() => state.laptop.log.message.length === 31 && state.alice.log.message.length === 31);
        """,
        **TOKENS,
    )
    assert script("return held(state.laptop);") == script("return held(state.alice);") == stored(server)
    script(
        """
        const mine = ({ userId, seq }) => userId === BOB && seq > 28;
        await until(() => state.laptop.log["message.delivered"].some(mine));
        """,
        BOB=BOB,
    )


def test_tokens_that_expire(node: Node, live: LiveServer) -> None:
    """A fresh one is brought before the old one expires; a refused one is asked for anew; the same again ends it."""
    script = Script(node, live.url)
    now = int(time.time())
    seen = script(
        """
        const wishes = [];
        const one = client(({ refresh }) => { wishes.push(refresh); return refresh ? good : short; });
        await one.connect();
        const { connectionId } = one;
        await until(() => one.log["auth.refreshed"].length === 1);
        const refused = client(({ refresh }) => refresh ? good : expired);
        await refused.connect();
        const hopeless = client(() => expired);
        const reason = await hopeless.connect().catch((error) => error.code);
        let asked = 0;
        const many = client(() => refusedOnes[asked++]);
        const manyRefused = await many.connect().catch((error) => error.code);
        const nobody = await client(() => null).connect().catch((error) => error.code);
        return { wishes, same: one.connectionId === connectionId, reason, nobody,
          manyRefused, asked, hopeless: hopeless.log.state.map(({ state }) => state),
          refused: refused.log.state.map(({ state, code }) => code ?? state) };
        """,
        short=token(ALICE, exp=now + 61), good=token(ALICE), expired=token(ALICE, exp=now - 5),
        refusedOnes=[token(ALICE, exp=now - 10 - number) for number in range(9)],
    )  # fmt: skip
    assert seen["wishes"] == [False, True] and seen["same"]
    assert seen["reason"] == "AUTH_FAILED" and seen["hopeless"] == ["connecting", "waiting", "connecting", "closed"]
    assert (seen["manyRefused"], seen["asked"]) == ("AUTH_FAILED", 3), "a fresh one each time is not asked for for ever"
    assert seen["nobody"] == "AUTH_REQUIRED"
    assert seen["refused"] == ["connecting", 4401, "connecting", "open"]


def test_a_restart_says_when_to_come_back(node: Node, live: LiveServer) -> None:
    """After server.draining and 1012 the client waits as long as it was told."""
    script = Script(node, live.url)
    script("state.one = client(alice_token); state.one.on('server.draining', (f) => (state.told = f.reconnectAfterMs));"
           "await state.one.connect();", **TOKENS)  # fmt: skip
    live.end(signal.SIGTERM)
    seen = script("await until(() => state.one.log.state.some(({ state }) => state === 'waiting'));"
                  "return [state.told, state.one.log.state.find(({ state }) => state === 'waiting')];")  # fmt: skip
    assert seen[1]["code"] == 1012 and seen[1]["retryInMs"] == seen[0]
    live.start()
    script("state.one.wake(); await until(() => state.one.status.state === 'open');")


def test_close_codes(node: Node, serve: Serve) -> None:
    """4429 waits for its turn; 4400 does not come back; 1009 costs the frame that was too large, and no other."""
    server = serve(max_connections_per_user=1, max_frame_bytes=1024)
    script = Script(node, server.url)
    seen = script(
        """
        const one = client(alice_token), two = client(alice_token), bob = client(bob_token);
        await one.connect(); await bob.connect();
        two.connect();
        await until(() => two.log.state.some(({ state, code }) => state === "waiting" && code === 4429));
        one.close();
        await until(() => two.status.state === "open");
        const large = two.send(CHAT, "x".repeat(2000)).catch((error) => error.code);
        const small = two.send(CHAT, "small");
        const result = [await large, (await small).seq];
        for (let n = 0; n < 30; n += 1) bob.sendFrame("{");
        await until(() => bob.status.state === "closed");
        return [...result, bob.status.code, two.log.failed.map(({ error }) => error.code)];
        """,
        **TOKENS,
    )
    assert seen == ["TOO_LARGE", 1, 4400, ["TOO_LARGE"]]


@pytest.mark.parametrize("settings", [{"message_rate": 8, "message_burst": 1}, {"frame_rate": 8, "frame_burst": 2}])
def test_rate_limits(node: Node, serve: Serve, settings: dict[str, Any]) -> None:
    """Too many messages at once, or frames: each is sent again when it may, and their order stays."""
    server = serve(**settings)
    script = Script(node, server.url)
    script(
        """
        const one = client(alice_token);
        await one.connect();
        const all = Promise.all(Array.from({ length: 8 }, (_, n) => one.send(CHAT, `m${n}`)));
        // Sooner than what is merely never answered is sent again.
        await Promise.race([all, new Promise((_, no) => setTimeout(() => no(new Error("too slow")), 10_000))]);
        if (!one.log.error.some(({ code }) => code === "RATE_LIMITED")) throw new Error("the limit was never met");
        """,
        **TOKENS,
    )
    assert [row[1] for row in stored(server)] == [f"m{number}" for number in range(8)]


def test_a_store_that_is_away(node: Node, serve: Serve) -> None:
    """STORE_UNAVAILABLE is waited out; what will never do is refused with the server's code, and ends nothing."""
    server = serve(request_timeout_s=2)
    script = Script(node, server.url)
    script("state.one = client(alice_token); await state.one.connect();", **TOKENS)
    with closing(psycopg2.connect(server.dsn)) as lock, lock.cursor() as cursor:
        cursor.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        script("state.sent = state.one.send(CHAT, 'patience');"
               "await until(() => state.one.log.error.some(({ code }) => code === 'STORE_UNAVAILABLE'));")  # fmt: skip
        lock.rollback()
    assert script("return (await state.sent).seq;") == 1
    seen = script(
        """
        const codes = [];
        for (const [chat, text] of [[BOUNTY, "x"], [CHAT, "  "], [CHAT, "x".repeat(4001)], ["nothing", "x"]]) {
          codes.push(await state.one.send(chat, text).then(() => "acked", (error) => error.code));
        }
        return [codes, (await state.one.send(CHAT, "on we go")).seq];
        """,
        BOUNTY=BOUNTY,
    )
    assert seen == [["NOT_PARTICIPANT", "INVALID_TEXT", "INVALID_TEXT", "INVALID_FRAME"], 2]


def test_unsent_messages_outlive_the_app(node: Node, live: LiveServer) -> None:
    """With a storage, what was not acked is sent by the next start, once; and never as another person."""
    script = Script(node, live.url)
    script(
        """
        state.kept = new Map();
        state.storage = {
          getItem: async (key) => state.kept.get(key) ?? null,
          setItem: async (key, value) => state.kept.set(key, value),
        };
        state.one = client(alice_token, { storage: state.storage });
        await state.one.connect();
        """,
        **TOKENS,
    )
    live.kill()
    code = script(
        """
        await until(() => state.one.status.state === "waiting");
        const sent = state.one.send(CHAT, "written in a tunnel");
        await until(() => state.kept.get("bountyexpo-realtime.outbox").includes("tunnel"));
        state.one.close();
        return sent.catch((error) => error.code);
        """
    )
    assert code == "CLOSED"
    live.start()
    failed = script(
        """
        state.saved = new Map(state.kept);
        const other = client(bob_token, { storage: state.storage });
        await other.connect();
        await until(() => other.log.failed.length === 1);
        other.close();
        state.kept.clear(); for (const [key, value] of state.saved) state.kept.set(key, value);
        return other.log.failed[0].error.code;
        """,
        **TOKENS,
    )
    assert failed == "OTHER_USER" and stored(live) == []
    script("const one = client(alice_token, { storage: state.storage }); await one.connect();"
           "await until(() => one.log.message.length === 1 && one.pending.length === 0);", **TOKENS)  # fmt: skip
    assert [row[1:3] for row in stored(live)] == [["written in a tunnel", ALICE]]
    script("await until(() => state.kept.get('bountyexpo-realtime.outbox') === '[]');")


@pytest.mark.slow
def test_a_network_that_says_nothing(node: Node, serve: Serve) -> None:
    """A server that does not answer pings any more is left, though nothing was closed."""
    server = serve(heartbeat_interval_s=1)
    script = Script(node, server.url)
    script("state.one = client(alice_token); await state.one.connect();", **TOKENS)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        script(
            "await until(() => state.one.log.state.some(({ state, code }) => state === 'waiting' && code === 1006));"
        )
    finally:
        server.process.send_signal(signal.SIGCONT)
    script("await until(() => state.one.status.state === 'open');")


def test_an_app_that_never_gives_a_token(node: Node, live: LiveServer) -> None:
    """A getToken that says nothing is left alone after a while, and asked again; whoever calls is told."""
    script = Script(node, live.url)
    seen = script(
        """
        const set = globalThis.setTimeout;
        globalThis.setTimeout = (call, ms) => set(call, ms / 100);
        let asked = 0;
        const never = () => new Promise(() => {});
        const one = client(() => ((asked += 1) === 1 ? never() : alice_token));
        await one.connect();
        const mute = client(never);
        const code = await mute.request("GET", "/api/conversations").catch((error) => error.code);
        globalThis.setTimeout = set;
        return { asked, code, error: one.log.state.find(({ state }) => state === "waiting").error.code };
        """,
        **TOKENS,
    )
    assert seen == {"asked": 2, "code": "NETWORK", "error": "NETWORK"}


def test_a_rest_call_with_an_expired_token(node: Node, live: LiveServer) -> None:
    """It is made again with a fresh one, once: the app's clock may be wrong, and its token look good to it."""
    script = Script(node, live.url)
    seen = script(
        """
        const wishes = [];
        const note = (refresh, token) => { wishes.push(refresh); return token; };
        const one = client(({ refresh }) => note(refresh, refresh ? alice_token : expired));
        const { conversations } = await one.request("GET", "/api/conversations");
        const hopeless = client(({ refresh }) => note(refresh, expired));
        const status = await hopeless.request("GET", "/api/conversations").catch((error) => error.status);
        return [conversations.length, status, wishes];
        """,
        expired=token(ALICE, exp=int(time.time()) - 3600), **TOKENS,
    )  # fmt: skip
    assert seen == [1, 401, [False, True, False, True]]


def test_another_person_in_the_same_client(node: Node, live: LiveServer) -> None:
    """Whoever connects next neither sends what the first wrote, nor has their own words taken for the other's."""
    script = Script(node, live.url)
    seen = script(
        """
        let who = alice_token;
        const kept = new Map();
        const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
        const one = client(() => who, { storage });
        await one.connect();
        one.leave(CHAT);
        one.close();
        one.send(CHAT, "alice, too late");
        who = bob_token;
        let sent = null;
        one.on("replay.complete", () => (sent ??= one.send(CHAT, "bob")));
        one.on("connected", () => one.send(CHAT, "bob, at once"));
        await one.connect();
        await until(() => sent && one.pending.length === 0);
        return one.log.failed.map(({ error, message }) => [error.code, message.text]);
        """,
        **TOKENS,
    )
    assert seen == [["OTHER_USER", "alice, too late"]]
    assert [row[1:3] for row in stored(live)] == [["bob, at once", BOB], ["bob", BOB]]


def test_a_loop_misses_nothing_of_other_devices(node: Node, live: LiveServer) -> None:
    """What one wrote elsewhere while the client was away is in the loop, though no live message came before."""
    script = Script(node, live.url)
    seen = script(
        """
        const bob = client(bob_token), phone = client(alice_token), one = client(alice_token);
        await bob.connect(); await phone.connect();
        await phone.send(CHAT, "m1");
        await one.connect();
        const got = [];
        const loop = (async () => {
          for await (const { seq } of one.messages(CHAT, { after: 0 })) if (got.push(seq) === 4) break;
        })();
        await until(() => got.length === 1);
        const again = one.once("replay.complete");
        one.sendFrame("x".repeat(70_000));
        await until(() => one.status.state === "waiting");
        await phone.send(CHAT, "m2"); await phone.send(CHAT, "m3");
        one.wake();
        await again;
        await bob.send(CHAT, "m4");
        await loop;
        return got;
        """,
        **TOKENS,
    )
    assert seen == [1, 2, 3, 4]


def test_many_conversations_at_once(node: Node, serve: Serve) -> None:
    """What waits in many conversations does not storm a server that asks for patience: a few frames a message."""
    server = serve(message_rate=100, message_burst=5, frame_rate=100, frame_burst=30)
    server.sql("CREATE TEMPORARY TABLE made AS SELECT gen_random_uuid() AS id FROM generate_series(1, 60);"
               "INSERT INTO conversations (id, is_group) SELECT id, true FROM made;"
               "INSERT INTO conversation_participants (conversation_id, user_id) "
               "SELECT made.id, profiles.id FROM made, profiles")  # fmt: skip
    script = Script(node, server.url)
    seen = script(
        """
        const one = client(alice_token);
        one.connect();
        await one.once("connected");
        await Promise.all(one.conversationIds.map((id) => one.send(id, "hello")));
        const limits = one.log.error.filter(({ code }) => code === "RATE_LIMITED").length;
        return [limits, one.log.traffic.filter(({ direction }) => direction === "out").length, one.log.state.length];
        """,
        **TOKENS,
    )
    assert seen[0] > 0, "the limit was never met"
    assert seen[1] < 3 * 61 and seen[2] == 2


def test_a_storage_in_trouble(node: Node, live: LiveServer) -> None:
    """What can't be read is not written over; a slow storage gets the newest state, not one after each message."""
    script = Script(node, live.url)
    seen = script(
        """
        const written = [];
        const broken = { getItem: () => { throw new Error("locked"); }, setItem: (key, value) => written.push(value) };
        const one = client(alice_token, { storage: broken });
        await one.connect();
        await one.send(CHAT, "all the same");
        let writes = 0, last;
        const slow = {
          getItem: () => null,
          setItem: async (key, value) => {
            await new Promise((resolve) => setTimeout(resolve, 20));
            writes += 1;
            last = value;
          },
        };
        const two = client(alice_token, { storage: slow });
        await two.connect();
        await Promise.all(Array.from({ length: 100 }, (_, n) => two.send(CHAT, `m${n}`)));
        await until(() => last === "[]");
        return [written, one.log.failed.map(({ error }) => error.message), writes < 100];
        """,
        **TOKENS,
    )
    assert seen == [[], ["locked"], True]


def test_what_was_read_last_is_said(node: Node, live: LiveServer) -> None:
    """Whoever reads and closes at once has read it for the others too."""
    script = Script(node, live.url)
    script(
        """
        const alice = client(alice_token), bob = client(bob_token);
        await alice.connect(); await bob.connect();
        bob.on("message", ({ seq }) => { bob.markRead(CHAT, seq); bob.close(); });
        await alice.send(CHAT, "read this");
        await until(() => alice.log["message.read"].length === 1, 3000);
        """,
        **TOKENS,
    )


def test_a_clock_that_is_set(node: Node, live: LiveServer) -> None:
    """An hour back or forth, nobody is silent for it."""
    script = Script(node, live.url)
    typed = script(
        """
        const one = client(alice_token);
        await one.connect();
        const date = Date.now, performance = globalThis.performance.now;
        one.typing(CHAT);
        Date.now = () => date() - 3_600_000;
        globalThis.performance.now = function () { return performance.call(this) + 3_001; };
        one.typing(CHAT);
        Date.now = date; globalThis.performance.now = performance;
        return one.log.traffic.filter(({ text }) => text.includes('"typing"')).length;
        """,
        **TOKENS,
    )
    assert typed == 2


def test_a_reader_that_is_always_too_slow(node: Node, live: LiveServer) -> None:
    """4408 again and again is answered with backoff, not with a connection each quarter of a second."""
    script = Script(node, live.url)
    waits = script(
        """
        const set = globalThis.setTimeout, random = Math.random;
        Math.random = () => 1;
        globalThis.setTimeout = (call, ms) => set(call, [500, 1000, 2000, 4000].includes(ms) ? 1 : ms);
        // A line on which each connection ends as soon as it is greeted.
        class Narrow extends WebSocket {
          set onmessage(listener) {
            super.onmessage = listener && ((event) => { listener(event); this.onclose?.({ code: 4408 }); });
          }
        }
        const one = client(alice_token, { WebSocket: Narrow });
        one.connect();
        const waiting = () => one.log.state.filter(({ state }) => state === "waiting");
        await until(() => waiting().length === 5);
        one.close();  // the fifth wait is as long as it says
        globalThis.setTimeout = set; Math.random = random;
        return waiting().map(({ code, retryInMs }) => [code, retryInMs]);
        """,
        **TOKENS,
    )
    assert waits == [[4408, 500], [4408, 1000], [4408, 2000], [4408, 4000], [4408, 8000]]


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
