"""The command: ``python -m bench [--quick] [--rounds N] [--only …] [--peers …] [--growth N] [--chart]``."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from bench import environment, growth, report, world
from bench.contestants import OURS, PEER_LIST, Contestant
from bench.paths import DATA, ROOT, VENV
from bench.runner import Runner
from bench.scenarios import SCENARIOS
from storage.embedded import EmbeddedPostgres

_PERSISTING = "statement"


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under two minutes")
    parser.add_argument("--rounds", type=int, default=0, help="rounds, interleaved (3; quick: 1)")
    parser.add_argument("--only", nargs="+", default=[], choices=sorted(SCENARIOS), help="these scenarios")
    parser.add_argument("--growth", type=_stored, default=0, metavar="N", help="grow to N stored messages (1000000)")
    parser.add_argument("--chart", action="store_true", help="draw a chart of a quick run too")
    names = [contestant.name for contestant in PEER_LIST]
    parser.add_argument("--peers", nargs="*", default=names, choices=names, help="these peers")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    started = time.monotonic()
    missing = environment.prepare()
    wanted = [OURS, *(peer for peer in PEER_LIST if peer.name in arguments.peers)]
    skipped = {each.label: missing[each.needs] for each in wanted if each.needs in missing}
    for label, reason in skipped.items():
        print(f"Skipped: {label}: {reason}")
    contestants = [each for each in wanted if each.needs not in missing]

    postgres = EmbeddedPostgres(DATA / "postgres")
    try:
        only = set(arguments.only)
        runner = Runner(postgres, world.write(), quick=arguments.quick, only=only)
        count = 0 if only == {"growth"} else arguments.rounds or (1 if arguments.quick else 3)
        rounds = _rounds(runner, contestants if count else [OURS], count, not only)
        if not only or "growth" in only:
            most = arguments.growth or (growth.QUICK if arguments.quick else growth.USUAL)
            rounds[OURS.name] += growth.measure(runner, postgres, quick=arguments.quick, most=most)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    finally:
        with contextlib.suppress(Exception):
            postgres.stop()

    labels = {each.name: each.label for each in contestants} | {_PERSISTING: "bare group-commit statement"}
    print(report.table(rounds, labels) + "\n" + report.growth_table(rounds))
    print(f"\n{report.disturbance(rounds)}")
    path = report.write(rounds, labels, skipped, quick=arguments.quick)
    print("Median (least–most) of the rounds; * the load generator was at its limit.")
    print(f"{path.relative_to(ROOT)} written after {time.monotonic() - started:.0f} s")
    if arguments.chart or not (arguments.quick or only):
        _draw(path)
    return 0


def _rounds(runner: Runner, contestants: list[Contestant], count: int, with_limit: bool) -> report.Rounds:
    """Run the rounds. Each begins with another contestant, so that none always has the quiet machine."""
    if count:
        contestants = [each for each in contestants if runner.prepare(each)]
    rounds: report.Rounds = {OURS.name: []} | {each.name: [] for each in contestants} | {_PERSISTING: []}
    # Without a terminal there is no bar, only a line a turn.
    with tqdm(total=count * len(contestants), unit=" turns", leave=False, disable=None, dynamic_ncols=True) as bar:
        for number in range(count):
            turn = number % len(contestants)
            for contestant in contestants[turn:] + contestants[:turn]:
                tqdm.write(f"round {number + 1} of {count}: {contestant.label}")
                rounds[contestant.name].append(runner.turn(contestant, first=not number))
                bar.update()
            if with_limit:
                rounds[_PERSISTING].append(runner.persisting_limit())
    return rounds


def _draw(results: Path) -> None:
    """Draw the chart, where the peers' environment, which has matplotlib, could be installed."""
    try:
        subprocess.run([VENV / "bin" / "python", "-m", "bench.chart", results], check=True, cwd=ROOT, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"No chart: {error}")


def _stored(text: str) -> int:
    """Read --growth."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
