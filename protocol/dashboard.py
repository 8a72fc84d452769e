"""What the dashboard is sent: two frames on its socket, one REST body. Counts only, and no id but the process's own."""

from msgspec import Struct

from protocol.answers import Part
from protocol.outbound import ServerFrame, Time


class Sample(Struct, rename="camel", kw_only=True):
    """One second of this process. Latencies are in milliseconds, over the last ten seconds; None without messages."""

    at: int  # milliseconds since 1970
    connections: int
    messaging_connections: int
    event_connections: int
    people_online: int
    rooms: int
    messages: int
    deliveries: int
    frames_sent: int
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None


class Inside(Struct, rename="camel", kw_only=True):
    """How writer, database and event loop are doing. Times are in milliseconds, over the last ten seconds."""

    parts: dict[str, Part]
    loop_lag_ms: float
    commit_p50_ms: float | None
    commit_p99_ms: float | None
    batch_mean: float | None
    writer_queue: int
    pool_size: int
    pool_busy: int
    pool_waiting: int
    backlog_bytes: int
    lagging_connections: int


class DashboardHello(ServerFrame, tag="dashboard.hello", kw_only=True):
    """First frame: who is speaking, and the minutes before, so that no chart begins empty.

    ``samples`` are columns by the names of a sample's fields: as rows they would be five times as large.
    """

    version: str
    environment: str
    instance: str
    started_at: Time
    timestamp: Time
    samples: dict[str, list[float | None]]


class DashboardUpdate(ServerFrame, tag="dashboard.update", kw_only=True):
    """Once a second. ``errors`` and ``closes`` are counts by code within the last five minutes."""

    sample: Sample
    inside: Inside
    errors: dict[str, int]
    closes: dict[str, int]


class HistoryPoint(Struct, rename="camel", kw_only=True):
    """One step of a span, all processes together.

    Rates are shares of 1; times are medians in seconds. ``active_people`` is an estimate, and None by the minute.
    """

    at: Time
    messages: int
    active_people: int | None
    new_conversations: int
    delivery_rate: float | None
    read_rate: float | None
    delivered_after_s: float | None
    read_after_s: float | None
    connects: int
    disconnects: int
    errors: int
    peak_connections: int
    peak_people: int


class History(Struct, rename="camel", kw_only=True):
    """``GET /dashboard/history``.

    ``total`` is the whole span as one point. ``busiest`` has messages of the last four weeks by weekday, Monday first,
    and hour, in UTC.
    """

    span: str
    step_s: int
    total: HistoryPoint
    points: list[HistoryPoint]
    busiest: list[list[int]]
