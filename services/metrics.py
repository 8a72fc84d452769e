"""What Prometheus is told: each counter of the server under the name that dashboards and alerts ask for.

The numbers live where the work is done and are only read here, at a scrape. Labels are of bounded number: endpoints,
close codes of the protocol, error codes, frame types; never an id. A part that is new to the server gets a method
that yields its families, a line in ``collect``, and panels in ``deploy/grafana``.
"""

import itertools
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from connections.heartbeat import Heartbeat
from connections.limits import RateLimiter
from connections.registry import DASHBOARD, Registry
from connections.traffic import CLOSE_CODES, Traffic
from measures import Histogram
from protocol.codes import ErrorCode
from protocol.inbound import EventsFrame, MessagesFrame
from services.auth import Authenticator
from services.bounty_events import BountyEvents
from services.conversations import Conversations
from services.loop_lag import LoopLag
from services.messaging import Messaging
from services.push import Push
from services.push_rules import DROP_REASONS
from services.receipts import Receipts
from services.replay import Replay
from storage.database import Database
from storage.message_writer import MessageWriter

# Every series there will be is there from the start: one that is born with its first count has not risen yet.
ENDPOINTS = ("messages", "events", DASHBOARD)
FRAMES = get_args(MessagesFrame | EventsFrame)
# Expo's names for what can go wrong with one push; whatever else it may say is counted as one.
EXPO_ERRORS = (
    "DeviceNotRegistered",
    "MessageTooBig",
    "MessageRateExceeded",
    "MismatchSenderId",
    "InvalidCredentials",
    "DeveloperError",
    "ExpoError",
    "ProviderError",
    "Unknown",
)


class Metrics(Collector):
    """Reads everything that is counted; ``expose`` is a scrape's answer.

    :param limits: the rate limits, by the name that they are to have.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        traffic: Traffic,
        heartbeat: Heartbeat,
        messaging: Messaging,
        receipts: Receipts,
        conversations: Conversations,
        replay: Replay,
        bounty_events: BountyEvents,
        writer: MessageWriter,
        database: Database,
        authenticator: Authenticator,
        limits: Mapping[str, RateLimiter],
        loop_lag: LoopLag,
        push: Push | None,
        version: str,
    ) -> None:
        self._registry = registry
        self._traffic = traffic
        self._heartbeat = heartbeat
        self._messaging = messaging
        self._receipts = receipts
        self._conversations = conversations
        self._replay = replay
        self._bounty_events = bounty_events
        self._writer = writer
        self._database = database
        self._authenticator = authenticator
        self._limits = limits
        self._loop_lag = loop_lag
        self._push = push
        self._version = version
        self._started_at = time.time()
        self._collectors = CollectorRegistry(auto_describe=False)
        self._collectors.register(self)
        PlatformCollector(registry=self._collectors)
        GCCollector(registry=self._collectors)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and that format's media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._collectors), media_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering would else collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family, read now."""
        yield InfoMetricFamily("realtime_build", "The server's version.", {"version": self._version})
        yield from self._open_connections()
        yield from self._connection_traffic()
        yield from self._slow_readers()
        yield from self._message_path()
        yield from self._stores()
        yield from self._refusals()
        yield from self._relay()
        yield from self._pushes()
        yield from self._process()

    def _open_connections(self) -> Iterator[Metric]:
        registry = self._registry
        yield _gauge("websocket_active_connections", "Open WebSockets, all endpoints.", len(registry.connections))
        messaging, dashboards = registry.messaging_clients, len(registry.dashboards)
        events = len(registry.connections) - messaging - dashboards
        by_endpoint = {"messages": messaging, "events": events, DASHBOARD: dashboards}
        yield _labelled(GaugeMetricFamily, "websocket_connections", "Open WebSockets.", "endpoint", by_endpoint)
        yield _gauge("messaging_people_online", "People with an open messaging socket.", len(registry.people))
        yield _gauge("messaging_rooms", "Conversations with somebody online.", registry.rooms)

    def _connection_traffic(self) -> Iterator[Metric]:
        traffic = self._traffic
        opened = {endpoint: traffic.opened[endpoint] for endpoint in ENDPOINTS}
        yield _labelled(CounterMetricFamily, "websocket_connections_opened", "Handshakes done.", "endpoint", opened)
        closed = CounterMetricFamily(
            "websocket_connections_closed", "WebSockets that have closed.", labels=("endpoint", "code")
        )
        for endpoint, code in itertools.product(ENDPOINTS, CLOSE_CODES):
            closed.add_metric((endpoint, code), traffic.closed[endpoint, code])
        yield closed
        yield _counter(
            "websocket_connection_errors",
            "WebSockets that ended otherwise than by the client's going or our restart.",
            traffic.failed(),
        )
        yield _counter("websocket_messages_sent", "Frames sent, of every type.", traffic.sent)
        received = {str(kind.__struct_config__.tag): traffic.received[kind] for kind in FRAMES}
        yield _labelled(
            CounterMetricFamily, "websocket_frames_received", "Frames that were acted on.", "type", received
        )
        yield _labelled(
            CounterMetricFamily,
            "realtime_errors",
            "Errors told, in frames and over HTTP.",
            "code",
            {code: traffic.errors[code] for code in ErrorCode.__members__},
        )
        answers = {str(status): count for status, count in traffic.answers.items()}
        yield _labelled(CounterMetricFamily, "http_requests", "HTTP requests answered.", "status", answers)
        yield _histogram("http_request_seconds", "From request to answer.", traffic.answer_seconds)

    def _slow_readers(self) -> Iterator[Metric]:
        traffic = self._traffic
        behind = [connection for connection in self._registry.connections.values() if connection.waiting_bytes]
        waiting = [connection.waiting_bytes for connection in behind]
        yield _gauge("websocket_send_backlog_bytes", "Bytes that wait for slow readers.", sum(waiting))
        yield _gauge("websocket_send_backlog_largest_bytes", "The largest of them.", max(waiting, default=0))
        lagging = sum(connection.lagging for connection in behind)
        yield _gauge("websocket_lagging_connections", "Connections that read too slowly.", lagging)
        yield _counter("websocket_frames_dropped", "Typing and presence spared a slow reader.", traffic.dropped)
        yield _counter("websocket_frames_superseded", "Waiting events that a newer one replaced.", traffic.superseded)
        yield _counter("websocket_slow_readers_closed", "Closed with too much waiting.", traffic.slow_readers)
        yield _counter("websocket_heartbeat_timeouts", "Closed because they did not answer.", self._heartbeat.timed_out)

    def _message_path(self) -> Iterator[Metric]:
        messaging, receipts = self._messaging, self._receipts
        latency = messaging.latency
        yield _histogram("websocket_message_latency", "Seconds from a message's coming in to its being told.", latency)
        yield _counter("messaging_messages_stored", "Chat messages committed and told.", latency.count)
        yield _counter("messaging_deliveries", "Sockets that chat messages went to at once.", messaging.deliveries)
        yield _labelled(
            CounterMetricFamily,
            "messaging_acks",
            "Acks sent, of new messages and of keys that were known.",
            "result",
            {"stored": messaging.acks, "duplicate": messaging.duplicates},
        )
        yield _labelled(
            CounterMetricFamily,
            "messaging_receipts",
            "Messages that reached, or were read by, one recipient each.",
            "status",
            {"delivered": receipts.delivered, "read": receipts.read},
        )
        yield _counter("messaging_conversations_created", "Conversations made.", self._conversations.created)
        sizes = {
            "offline_queue": self._replay.queue_sizes,
            "sync": self._replay.sync_sizes,
            "events": self._bounty_events.replay_sizes,
        }
        yield _histograms("websocket_replay_size", "How much was sent again to one who came back.", "kind", sizes)

    def _stores(self) -> Iterator[Metric]:
        writer, database = self._writer, self._database
        yield _histogram("message_writer_batch_size", "Messages a commit.", writer.batch_sizes)
        yield _histogram("message_writer_commit_seconds", "One commit's time.", writer.commit_seconds)
        yield _gauge("message_writer_queue", "Messages that wait for a batch.", writer.waiting)
        pool = {"size": database.size, "busy": database.busy, "free": database.free}
        yield _labelled(GaugeMetricFamily, "database_pool_connections", "The connection pool.", "state", pool)
        yield _gauge("database_pool_waiting", "Callers that wait for a connection.", database.waiting)
        yield _histogram("database_fetch_seconds", "A statement's time, waiting included.", database.fetch_seconds)
        yield _counter("database_unavailable", "Statements given up: PostgreSQL away or slow.", database.unavailable)

    def _refusals(self) -> Iterator[Metric]:
        refused = {name: limiter.refused for name, limiter in self._limits.items()}
        yield _labelled(CounterMetricFamily, "realtime_rate_limited", "Refused by a rate limit.", "limit", refused)
        refused_connections = self._traffic.errors["CONNECTION_LIMIT"]
        yield _counter("websocket_connections_refused", "Refused by a cap on connections.", refused_connections)
        yield _counter("realtime_auth_failures", "Tokens that were bad or had expired.", self._authenticator.refused)

    def _relay(self) -> Iterator[Metric]:
        events = self._bounty_events
        yield _gauge("bounty_event_relay_up", "1 while the relay reads the event log.", int(events.healthy))
        yield _counter("bounty_events_relayed", "Events told.", events.relayed)
        yield _histogram(
            "bounty_event_relay_lag_seconds", "From an event's commit to its being told.", events.lag_seconds
        )

    def _pushes(self) -> Iterator[Metric]:
        push = self._push
        yield _gauge("push_up", "1 while pushes are on and Expo answers.", int(push is not None and push.healthy))
        if push is None:
            return
        yield _counter("push_sent", "Pushes that Expo took.", push.sent)
        failed = {name: push.failed[name] for name in EXPO_ERRORS}
        failed["other"] = push.failed.total() - sum(failed.values())
        yield _labelled(CounterMetricFamily, "push_failed", "Pushes that Expo refused.", "error", failed)
        dropped = {reason: push.dropped[reason] for reason in DROP_REASONS}
        yield _labelled(CounterMetricFamily, "push_dropped", "Pushes not sent after all.", "reason", dropped)
        yield _counter("push_tokens_removed", "Devices that are gone.", push.tokens_removed)
        yield _gauge("push_queue", "Pushes that are owed or on their way.", push.depth)

    def _process(self) -> Iterator[Metric]:
        yield _histogram("event_loop_lag_seconds", "How late the loop wakes.", self._loop_lag.seconds)
        # By the names of prometheus-client's own collector, which lists every descriptor to count them: 7 ms at 10,000.
        yield _counter("process_cpu_seconds", "CPU time used.", time.process_time())
        yield _gauge("process_start_time_seconds", "When this was built, since 1970.", self._started_at)
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        yield _gauge("process_resident_memory_bytes", "Memory in use.", memory)
        yield _gauge("process_max_fds", "Files that may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def _labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    about: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(name, about, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, about, buckets=_buckets(histogram), sum_value=histogram.sum)


def _histograms(name: str, about: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=(label,))
    for value, histogram in histograms.items():
        family.add_metric((value,), _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    below = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, map(float, histogram.bounds)), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets
