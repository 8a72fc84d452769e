"""The command: check a server, one's own or one that runs, and report. Exits with 1 if anything failed."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from tqdm import tqdm

from verify import authentication, connections, delivery, errors, infrastructure, monitoring, performance
from verify.checks import Result, reason, run
from verify.own import ROOT, NotStarted, own_server
from verify.report import is_good, markdown, summary
from verify.world import World, new_person, person_of

AREAS = {
    module.__name__.rpartition(".")[2]: module.area
    for module in (infrastructure, authentication, connections, delivery, errors, monitoring, performance)
}
_REPORT = ROOT / "docs" / "verification-report.md"
_WHO = (
    "A running server needs two people: TOKEN and OTHER_TOKEN, access tokens of two users, or SECRET, its HS256 key, "
    "with which tokens of made-up users are signed (each gets a profile). Let the two be made for this: their chat "
    "gets some dozens of messages and is hidden from them in the end, and a bounty of theirs is archived."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="verify", description=__doc__, epilog=_WHO)
    parser.add_argument("--url", help="a server that runs, as https://realtime.example; default: one of our own")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--area", action="append", choices=list(AREAS), help="only this area; may be repeated")
    parser.add_argument("--report", type=Path, help="where to write the report; default for our own: docs/")
    options = parser.parse_args(arguments)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # what goes wrong is in the report
    if options.url:
        try:
            world = _elsewhere(options.url, quick=options.quick)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return asyncio.run(_verify(world, options.area, options.report))
    report = options.report or (None if options.quick or options.area else _REPORT)
    try:
        with own_server() as server:
            alice, bob = new_person(server.secret), new_person(server.secret)
            world = World(server.url, alice, bob, secret=server.secret, is_own=True, quick=options.quick)
            return asyncio.run(_verify(world, options.area, report))
    except NotStarted as error:
        print(f"The server does not start:\n{error}", file=sys.stderr)
        return 1


def _elsewhere(url: str, *, quick: bool) -> World:
    """Return the people for a server that runs, from the environment. Raises ``ValueError``."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"URL is {url!r}: expected an address like https://realtime.example.")
    secret, tokens = os.environ.get("SECRET") or None, [os.environ.get(name, "") for name in ("TOKEN", "OTHER_TOKEN")]
    if all(tokens):
        try:
            alice, bob = map(person_of, tokens)
        except ValueError as error:
            raise ValueError(f"TOKEN or OTHER_TOKEN is wrong: {error}.") from error
        if alice.id == bob.id:
            raise ValueError("TOKEN and OTHER_TOKEN are of the same user: expected two people.")
    elif secret:
        alice, bob = new_person(secret), new_person(secret)
    else:
        raise ValueError(_WHO)
    return World(url, alice, bob, secret=secret, is_own=False, quick=quick)


async def _verify(world: World, only: list[str] | None, report: Path | None) -> int:
    checks = [check for name, area in AREAS.items() if not only or name in only for check in area.checks]
    results: list[Result] = []
    print(f"Checking {world.url}", flush=True)
    # Without a terminal there is no bar, only the summary.
    with tqdm(total=len(checks), unit=" checks", leave=False, disable=None, dynamic_ncols=True) as bar:
        for check in checks:
            bar.set_description(check.area)
            results.append(await run(check, world))
            bar.update()
    try:
        await world.leave()
    except Exception as error:  # whatever it was, the report is to be seen
        print(f"Not put away: {reason(error)}", file=sys.stderr)
    print("\n" + summary(results, colored=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(markdown(world, results))
        print(f"The report: {os.path.relpath(report)}")
    return 0 if is_good(results) else 1


if __name__ == "__main__":
    sys.exit(main())
