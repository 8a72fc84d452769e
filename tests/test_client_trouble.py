"""The client library in trouble: tokens, closes, limits, a silent network, a storage and a clock that fail."""

import signal
import time
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from storage.seed import ALICE, BOUNTY
from tests.browser import LiveServer
from tests.client_scripts import TOKENS, Node, Script, Serve, stored
from tests.harness import token
from tests.node_packages import node_packages  # noqa: F401  # a fixture

# Servers are started and killed, and the machine may be busy with other tests.
pytestmark = pytest.mark.timeout(120)


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
