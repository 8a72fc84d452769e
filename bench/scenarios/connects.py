"""(d) Authenticated connects a second: all at once, each by a person of their own, until `connected` has come."""

import time

from bench.load.dialects import MESSAGES_READY
from bench.load.job import Job


def run(job: Job) -> dict[str, float]:
    """Options: ``connections``."""
    people = job.people["people"][: job.options["connections"]]
    openings = [job.speak.messages(person["token"]) for person in people]
    meter = job.meter()
    started = time.monotonic()
    opened = job.loop.open(job.port, openings, MESSAGES_READY, len(openings))
    elapsed = time.monotonic() - started
    return {"connects_per_s": len(opened) / elapsed, "seconds": elapsed, **meter.read(len(opened))}
