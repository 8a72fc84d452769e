"""The client library in Node.js and in a real Chromium, against a real server that is killed under it."""

import pytest

from storage.seed import BOB, BOUNTY, CONVERSATION
from tests.browser import LiveServer
from tests.client_scripts import TOKENS, Node, Script, Serve, stored
from tests.node_packages import node_packages  # noqa: F401  # a fixture

# Servers are started and killed, and the machine may be busy with other tests.
pytestmark = pytest.mark.timeout(120)


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
