"""The load process: reads a job (JSON) from standard input, runs its scenario, prints the figures (JSON)."""

import gc
import json
import resource
import sys

from bench.load.job import Job
from bench.scenarios import SCENARIOS


def main() -> None:
    """Run one job."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job = Job(**json.load(sys.stdin))
    gc.freeze()
    gc.disable()  # a pause of the load generator would be measured as one of the server
    try:
        figures = SCENARIOS[job.scenario](job)
    finally:
        job.loop.close()
    json.dump(figures, sys.stdout)


main()
