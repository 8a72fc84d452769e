"""(a) One event to many subscribers.

Events go out one after another, the next when every subscriber has the last. Recipients a second is the number of
subscribers over the time from the first one's receipt to the last one's, the median of the events; CPU is that of
the server process over all events, publishing included.
"""

import statistics
import time

from bench.load.job import Job, Publisher
from bench.load.loop import Broken

_TIMEOUT_S = 20.0
_PAUSE_S = 0.01
_READ = 4096


def run(job: Job) -> dict[str, float]:
    """Options: ``subscribers``, ``events``."""
    count, events = job.options["subscribers"], job.options["events"]
    job.open_subscribers(count)
    publisher = Publisher(job)
    job.loop.drain(0.3)
    for _ in range(3):  # warm
        _one(job, publisher, count)
    spans: list[tuple[float, float]] = []
    meter = job.meter()
    for _ in range(events):
        spans.append(_one(job, publisher, count))
        time.sleep(_PAUSE_S)
    used = meter.read(count * events)
    # The load generator sleeps between events; what matters is its share while one arrives.
    busy = sum(last for _, last in spans)
    used["load_core"] = min(1.0, used["load_core"] * (busy + events * _PAUSE_S) / busy)
    used["load_was_limit"] = float(used["load_core"] > 0.95)
    first_to_last = statistics.median(last - first for first, last in spans)
    return {
        "recipients_per_s": count / first_to_last,
        "first_to_last_ms": first_to_last * 1000,
        "publish_to_last_ms": statistics.median(last for _, last in spans) * 1000,
        **used,
    }


def _one(job: Job, publisher: Publisher, count: int) -> tuple[float, float]:
    """Publish one event; return when the first and the last subscriber had it, in seconds since."""
    sockets, poll = job.loop.sockets, job.loop.epoll.poll
    tails: dict[int, bytes] = {}
    left, first = count, 0.0
    started = time.monotonic()
    marker = publisher.publish()
    while left:
        ready = poll(_TIMEOUT_S)
        if not ready:
            raise Broken(f"{left} of {count} subscribers did not get an event")
        if not first:
            first = time.monotonic()
        for fd, _ in ready:
            data = sockets[fd].recv(_READ)
            if marker in data:
                left -= 1
            elif not data:
                raise Broken("the server closed a subscriber's connection")
            elif marker in tails.setdefault(fd, b"") + data:
                left -= 1
            else:
                tails[fd] += data
    return first - started, time.monotonic() - started
