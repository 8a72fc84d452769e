"""``python -m chaos``: the run of faults. Exits with 0 when every property held, else with 1."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
from pathlib import Path

from chaos.faulty_server import FAULTS
from chaos.run import Options, Run

_DEFAULT_S = 600.0


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit status. Ctrl-C and SIGTERM end everything that was started."""
    parser = argparse.ArgumentParser(prog="chaos", description="A run of faults against the real server")
    parser.add_argument("--seconds", type=float, default=_DEFAULT_S, help="how long the faults go on")
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same schedule of faults")
    parser.add_argument(
        "--fault-in", choices=sorted(FAULTS), help="put this fault into the server: the checker must fail"
    )
    parser.add_argument("--record", type=Path, help="write every call, ack and frame to this file, one a line")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    return asyncio.run(_run(Options(options.seconds, seed, options.fault_in, options.record)))


async def _run(options: Options) -> int:
    run = Run(options)
    playing = asyncio.create_task(run.play())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, playing.cancel)
    status = 130
    try:
        status = await playing
    except RuntimeError as error:  # the server does not start (again)
        print(f"BREACH {error}", file=sys.stderr)
        status = 1
    except asyncio.CancelledError:
        pass
    if status == 0:
        shutil.rmtree(run.server.directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
