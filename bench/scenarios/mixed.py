"""(g) Chat while events go out to thousands.

The subscribers' sockets are read only afterwards (what they are sent fits into their kernel buffers): reading them
meanwhile would hold up the chat in the load generator, and that would be measured as the server's doing.
"""

import time
from contextlib import suppress

from bench.load.dialects import EVENT
from bench.load.job import Job, Publisher, latencies_ms
from bench.scenarios import chat


def run(job: Job) -> dict[str, float]:
    """Options: ``subscribers``, ``senders``, ``warm_s``, ``seconds``, ``every_s`` (an event)."""
    options = job.options
    subscribers = job.open_subscribers(options["subscribers"])
    publisher = Publisher(job)
    job.loop.drain(0.3)
    for sock in subscribers:
        job.loop.epoll.unregister(sock.fileno())
    latencies: list[float] = []
    for pair in chat.start(job, options["senders"], latencies):
        pair.send()
    job.loop.run(time.monotonic() + options["warm_s"])
    without = latencies_ms(latencies)
    for sock in subscribers:  # greetings, and what was published before
        with suppress(BlockingIOError):
            sock.recv(65536)
    latencies.clear()
    started = time.monotonic()
    events = 0
    meter = job.meter()
    while time.monotonic() < started + options["seconds"]:
        publisher.publish()
        events += 1
        job.loop.run(min(started + options["seconds"], time.monotonic() + options["every_s"]))
    elapsed = time.monotonic() - started
    used = meter.read(len(latencies))
    job.loop.run(time.monotonic() + 0.5)
    received = 0
    for sock in subscribers:
        with suppress(BlockingIOError):
            received += sock.recv(65536).count(EVENT)
    return {
        "messages_per_s": len(latencies) / elapsed,
        "p99_ms_without": without["p99_ms"],
        **latencies_ms(latencies),
        "events": events,
        "events_received_part": received / (events * len(subscribers)),
        **used,
    }
