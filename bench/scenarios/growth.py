"""(h) The cost of a message in a database that has grown: chat as in (b), in several windows of the same run.

Each window's figures count for themselves and the median of each is returned: a window that something else disturbed
does not decide. With ``conversations`` each pair of people goes through all of theirs in turn, so that the messages
touch the whole of the tables; without, each pair stays in one.
"""

import itertools
import statistics
import time

from bench import world
from bench.load.job import Job, latencies_ms
from bench.scenarios import chat


def run(job: Job) -> dict[str, float]:
    """Options: ``senders``, ``warm_s``, ``seconds``, ``windows``, ``conversations`` (0: one a pair)."""
    options = job.options
    senders = options["senders"]
    latencies: list[float] = []
    pairs = chat.start(job, senders, latencies)
    for number, pair in enumerate(pairs):
        if options["conversations"]:
            theirs = range(number, options["conversations"], senders)
            pair.conversations = itertools.cycle([world.numbered(5, n) for n in theirs])
        pair.send()
    job.loop.run(time.monotonic() + options["warm_s"])
    windows = [_window(job, latencies) for _ in range(options["windows"])]
    return {name: statistics.median(each[name] for each in windows) for name in windows[0]}


def _window(job: Job, latencies: list[float]) -> dict[str, float]:
    latencies.clear()
    started = time.monotonic()
    meter = job.meter()
    job.loop.run(started + job.options["seconds"])
    used = meter.read(len(latencies))
    rate = len(latencies) / (time.monotonic() - started)
    both = used["server_us"] + used["postgres_us"]
    return {"messages_per_s": rate, "both_us": both, **latencies_ms(latencies), **used}
