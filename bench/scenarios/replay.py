"""(f) Replay of the messages that somebody missed: from the start of the connect to `replay.complete`."""

import time

from bench.load.job import Job, latencies_ms
from bench.load.loop import Broken

_TIMEOUT_S = 10.0


def run(job: Job) -> dict[str, float]:
    """Options: ``times``."""
    token = job.people["replay"]["token"]
    seconds: list[float] = []
    received = 0
    meter = job.meter()
    for _ in range(job.options["times"]):
        started = time.monotonic()
        sock = job.open_people([token])[token]
        sock.setblocking(True)
        sock.settimeout(_TIMEOUT_S)
        data = b""
        while b'"replay.complete"' not in data[-512:]:
            chunk = sock.recv(262_144)
            if not chunk:
                raise Broken("the server closed the connection during the replay")
            data += chunk
            received += chunk.count(b'"message.new"')
        seconds.append(time.monotonic() - started)
        job.loop.epoll.unregister(sock.fileno())
    used = meter.read(received)
    return {"messages_per_s": received / sum(seconds), **latencies_ms(seconds), **used}
