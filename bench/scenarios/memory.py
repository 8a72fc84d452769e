"""(e) Memory of an idle authenticated connection: the growth of the server's resident set over the connections.

The first connections, which load and grow what every process needs once, are opened before and not counted.
"""

import time

from bench.load.dialects import MESSAGES_READY
from bench.load.job import Job
from bench.load.usage import rss_bytes

_UNCOUNTED = 200
_SETTLE_S = 1.0


def run(job: Job) -> dict[str, float]:
    """Options: ``steps``, the numbers of connections at which to look."""
    openings = [job.speak.messages(person["token"]) for person in job.people["people"]]
    job.loop.open(job.port, openings[:_UNCOUNTED], MESSAGES_READY, 200)
    job.loop.drain(_SETTLE_S)
    before = rss_bytes(job.server_pid)
    figures: dict[str, float] = {}
    opened = 0
    for step in job.options["steps"]:
        started = time.monotonic()
        wanted = openings[_UNCOUNTED + opened : _UNCOUNTED + step]
        job.loop.open(job.port, wanted, MESSAGES_READY, 500)
        figures[f"connects_per_s_to_{step}"] = len(wanted) / (time.monotonic() - started)
        opened = step
        job.loop.drain(_SETTLE_S)
        figures[f"kb_per_connection_{step}"] = (rss_bytes(job.server_pid) - before) / step / 1024
    return figures
