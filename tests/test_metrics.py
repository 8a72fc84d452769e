"""``/metrics``: the names, that what they count is so, who may read it, and what dashboards and alerts ask of it."""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import HTTPRequest

from measures import Histogram, quantile
from tests.harness import Server, own_address, token, until
from tests.raw import RawSocket, exchange

Start = Callable[..., Awaitable[Server]]
Labels = tuple[tuple[str, str], ...]

TOKEN = "only the scraper knows this one"
DEPLOY = Path(__file__).parent.parent / "deploy"
# What the app's own panels ask for.
PROMISED = {
    "websocket_active_connections",
    "websocket_messages_sent_total",
    "websocket_connection_errors_total",
    "websocket_message_latency_bucket",
}
ANY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-")


class Scrape:
    """What one scrape said: each sample's value by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[tuple[str, Labels], float] = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @property
    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {name for name, _ in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """Return a sample; 0 where a label's value has not come up."""
        assert name in self.names, f"no {name}"
        return self.samples.get((name, tuple(sorted(labels.items()))), 0.0)


async def scrape(server: Server, **headers: str) -> Scrape:
    """Scrape as Prometheus on the same machine does."""
    answer = await server._http.fetch(HTTPRequest(f"http://127.0.0.1:{server.port}/metrics", headers=headers))
    return Scrape(answer.body.decode())


async def status(server: Server, host: str = "127.0.0.1", **headers: str) -> int:
    """Return the status of a scrape with these headers."""
    url = f"http://{host}:{server.port}/metrics"
    answer = await server._http.fetch(HTTPRequest(url, headers=headers), raise_error=False)
    return int(answer.code)


async def test_the_promised_names_are_there_from_the_start(server: Server) -> None:
    """A panel finds its metric before anything has happened, in both formats."""
    assert (await scrape(server)).names >= PROMISED
    answer = await server._http.fetch(
        HTTPRequest(
            f"http://127.0.0.1:{server.port}/metrics",
            headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
        )
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert {family.name for family in open_metrics(answer.body.decode())} >= {"websocket_messages_sent"}


async def test_connections_are_counted_from_the_registry(server: Server) -> None:
    """The gauge is what /messages/stats and /events/stats say, before and after a close."""
    alice, bob, _ = await server.pair()
    device = await server.messages(alice)
    await server.messages(bob)
    await server.events()
    before = await scrape(server)
    stats = (await server.rest("GET", "/messages/stats")).body
    assert before.value("websocket_active_connections") == 3
    assert before.value("websocket_connections", endpoint="messages") == stats["totalClients"] == 2
    assert before.value("websocket_connections", endpoint="events") == 1
    assert before.value("messaging_people_online") == stats["onlineUsers"]
    assert before.value("messaging_rooms") == stats["totalRooms"]
    assert before.value("websocket_connections_opened_total", endpoint="messages") == 2
    await device.close()
    await until(lambda: len(server.app.registry.connections) == 2)
    after = await scrape(server)
    assert after.value("websocket_active_connections") == 2
    assert after.value("websocket_connections_closed_total", endpoint="messages", code="1005") == 1
    assert after.value("websocket_connection_errors_total") == 0


async def test_a_message_is_counted_on_its_way(server: Server) -> None:
    """Frames in by type, the batch and its commit, the ack, its latency, its deliveries, and its receipt."""
    alice, bob, chat = await server.pair()
    phone, tablet, other = await server.messages(alice), await server.messages(alice), await server.messages(bob)
    before = await scrape(server)
    await phone.say(chat, "one", "key")
    await phone.say(chat, "one", "key")
    await other.get("message.new")
    await tablet.get("message.new")
    await other.send("message.read", conversationId=chat, seq=1)
    await phone.get("message.read")
    after = await scrape(server)

    def gained(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert gained("websocket_frames_received_total", type="message.send") == 2
    assert gained("websocket_frames_received_total", type="message.read") == 1
    assert gained("messaging_messages_stored_total") == gained("websocket_message_latency_count") == 1
    assert 0 < gained("websocket_message_latency_sum") < 5
    assert gained("messaging_deliveries_total") == 2
    assert gained("messaging_acks_total", result="stored") == gained("messaging_acks_total", result="duplicate") == 1
    assert gained("message_writer_batch_size_count") == gained("message_writer_commit_seconds_count") == 2
    assert gained("message_writer_batch_size_sum") == 2
    assert gained("messaging_receipts_total", status="read") == 1
    assert gained("messaging_receipts_total", status="delivered") == 1
    # Two acks, two message.new, three message.read.
    assert gained("websocket_messages_sent_total") == 7
    assert gained("database_fetch_seconds_count") >= 3


async def test_what_is_refused_is_counted(start: Start) -> None:
    """Bad tokens, rate limits, caps on connections, bad frames."""
    server = await start(frame_rate=0.01, frame_burst=2, max_connections_per_user=1)
    user = await server.person()
    bad = await server.socket("/messages/subscribe", token="nonsense")
    assert await bad.closed() == 4401
    device = await server.messages(user)
    surplus = await server.socket("/messages/subscribe", token=token(user))
    assert await surplus.closed() == 4429
    for _ in range(3):
        await device.raw("no json")
    await device.get("error", code="RATE_LIMITED")
    assert (await server.rest("GET", "/api/conversations", headers={"Authorization": "Bearer x"})).status == 401
    found = await scrape(server)
    assert found.value("realtime_auth_failures_total") == 2
    assert found.value("realtime_rate_limited_total", limit="frame") == 1
    assert found.value("websocket_connections_refused_total") == 1
    assert found.value("realtime_errors_total", code="INVALID_JSON") == 2
    assert found.value("realtime_errors_total", code="AUTH_FAILED") == 2
    assert found.value("websocket_connections_closed_total", endpoint="messages", code="4429") == 1
    assert found.value("websocket_connection_errors_total") == 2
    assert found.value("http_requests_total", status="401") == 1


async def test_replays_events_and_the_relay_are_counted(server: Server) -> None:
    """What one who comes back is sent, and how late an event is."""
    alice, bob, chat = await server.pair()
    device = await server.messages(alice)
    for number in range(3):
        await device.say(chat, str(number))
    late = await server.messages(bob)
    await late.send("sync", conversations={chat: 1})
    await late.get("sync.complete")
    subscriber = await server.events()
    bounty, creator = await server.bounty()
    await subscriber.get("bounty.status")
    await server.rest("POST", f"/api/bounties/{bounty}/status", {"status": "cancelled"}, user=creator)
    await subscriber.get("bounty.status")
    resumed = await server.socket("/events/subscribe", lastEventId=0)
    await resumed.get("replay.complete")
    found = await scrape(server)
    assert found.value("websocket_replay_size_sum", kind="offline_queue") == 3
    assert found.value("websocket_replay_size_sum", kind="sync") == 2
    assert found.value("websocket_replay_size_sum", kind="events") == 2
    assert found.value("bounty_events_relayed_total") == found.value("bounty_event_relay_lag_seconds_count") == 2
    assert found.value("bounty_event_relay_up") == 1
    assert found.value("event_loop_lag_seconds_count") >= 0
    assert found.value("process_resident_memory_bytes") > 1e6


async def test_labels_are_few_and_hold_no_ids(server: Server) -> None:
    """A client chooses its close code; it gets no series of its own. No id, no path, no token is in it."""
    alice, _, chat = await server.pair()
    for code in range(3000, 3020):
        client = await server.messages(alice)
        client.socket.close(code)
        await client.closed()
    await server.rest("GET", f"/api/{uuid.uuid4()}/nothing")
    await server.rest("GET", f"/api/conversations/{chat}/messages", user=alice)
    found = await scrape(server)
    assert found.value("websocket_connections_closed_total", endpoint="messages", code="other") == 20
    assert '="3001"' not in found.text
    assert not ANY_ID.search(found.text)


async def test_a_slow_reader_is_counted(start: Start) -> None:
    """What is dropped for it, what waits for it, and its end."""
    server = await start(max_send_queue_bytes=65_536)
    alice, bob, chat = await server.pair()
    device = await server.messages(alice)
    async with RawSocket.open(server.port, f"/messages/subscribe?token={token(bob)}"):  # which reads no more
        await until(lambda: server.app.registry.messaging_clients == 2)
        slow = next(iter(server.app.registry.people[bob].connections))
        text = "x" * 4000
        while not slow.lagging:
            await device.say(chat, text)
        behind = await scrape(server)
        assert behind.value("websocket_send_backlog_bytes") > 16_384
        assert behind.value("websocket_lagging_connections") == 1
        await device.send("typing", conversationId=chat, isTyping=True)
        await device.flush()
        while not slow.closing:
            await device.say(chat, text)
        found = await scrape(server)
        assert found.value("websocket_frames_dropped_total") >= 1
        assert found.value("websocket_slow_readers_closed_total") == 1


async def test_who_may_read_it(start: Start) -> None:
    """This machine itself; whoever comes through a proxy on it, or under another name, needs the token."""
    server = await start(metrics_token=TOKEN)
    assert await status(server) == 200
    for through in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        assert await status(server, **{through: "127.0.0.1"}) == 401
    assert await status(server, Host="realtime.example") == 401
    assert await status(server, Host="127.0.0.1.evil.example") == 401
    for wrong in ("", "Bearer", "Bearer nonsense", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {token(None)}"):
        assert await status(server, Via="1.1 x", Authorization=wrong) == 401
    assert await status(server, Via="1.1 x", Authorization=f"Bearer {TOKEN}") == 200
    raw = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer \xe4\r\n\r\n"
    assert b" 401 " in await exchange(server.port, raw)


async def test_without_a_token_only_this_machine_reads_it(server: Server) -> None:
    """No METRICS_TOKEN is no token at all, not an empty one."""
    assert await status(server) == 200
    assert await status(server, Via="1.1 x", Authorization="Bearer ") == 401
    assert await status(server, Via="1.1 x", Authorization="Bearer None") == 401


async def test_from_another_address(start: Start) -> None:
    """A peer that is not on loopback needs the token."""
    own = own_address()
    server = await start(host="0.0.0.0", metrics_token=TOKEN)
    assert await status(server, own) == 401
    assert await status(server, own, Host="127.0.0.1") == 401
    assert await status(server, own, Authorization=f"Bearer {TOKEN}") == 200
    assert await status(server) == 200


# What else stands in an expression.
_NO_METRICS = {"sum", "min", "max", "rate", "increase", "histogram_quantile", "label_values"}
_NO_METRICS |= {"and", "on", "e9", "up", "job"}


def asked_for(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|(?:by|on) \([^)]*\)', " ", expression)
    words = set(re.findall(r"[a-z_][a-z0-9_]*", bare))
    return words - _NO_METRICS


def expressions() -> Iterator[Any]:
    """Yield what the dashboard and the alerts ask."""
    board = json.loads((DEPLOY / "grafana" / "bountyexpo-realtime.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["query"]["query"], id=variable["name"])
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule["alert"])


EXPRESSIONS = list(expressions())


def test_dashboard_and_alerts_are_looked_at() -> None:
    """The search finds their expressions, and in those the metrics."""
    assert len(EXPRESSIONS) > 40
    assert asked_for('sum by (le) (rate(a_bucket{job="x"}[5m])) / sum(b_count)') == {"a_bucket", "b_count"}


async def test_dashboard_and_alerts_name_what_exists(start: Start) -> None:
    """Every metric that the Grafana dashboard or an alert rule names is in a real scrape."""
    server = await start(expo_access_token="a token of Expo's", expo_push_url="http://127.0.0.1:9")
    alice, _, chat = await server.pair()
    device = await server.messages(alice)
    await device.say(chat, "so that there is one of each")
    await device.wrong("nonsense")
    await device.close()
    await until(lambda: not server.app.registry.connections)
    names = (await scrape(server)).names
    missing = {(expression.id, name) for expression in EXPRESSIONS for name in asked_for(expression.values[0]) - names}
    assert missing == set()


def test_each_alert_is_explained() -> None:
    """In the operator's table, by its name."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    operations = (DEPLOY.parent / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in rules if f"| `{rule['alert']}`" not in operations] == []


async def test_a_fault_that_closes_nothing_alerts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that fails is answered with INTERNAL, and the socket stays; the alert has to see it all the same."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    (expression,) = (rule["expr"] for rule in rules if rule["alert"] == "RealtimeFaults")
    alice, _, chat = await server.pair()
    device = await server.messages(alice)

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.app.context.typing, "set", fail)
    await device.send("typing", conversationId=chat, isTyping=True)
    await device.error("INTERNAL")
    assert 'realtime_errors_total{code="INTERNAL"}' in expression
    assert (await scrape(server)).value("realtime_errors_total", code="INTERNAL") == 1


def test_a_histogram_counts_by_bound() -> None:
    """A value is counted under the first bound that is not less; quantiles lie within their bucket."""
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 7):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1, 1]
    assert (histogram.count, histogram.sum) == (5, 15)
    assert quantile((1, 2, 5), [0, 0, 0, 0], 0.5) is None
    assert quantile((1, 2, 5), [0, 4, 0, 0], 0.5) == 1.5
    assert quantile((1, 2, 5), [1, 1, 2, 0], 1.0) == 5
    assert quantile((1, 2, 5), [0, 0, 0, 3], 0.5) == 5
