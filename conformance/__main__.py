"""``python -m conformance``: the Autobahn testsuite and raw cases of our own; fails on any failure."""

import argparse
import asyncio
import sys

import logs
from conformance import autobahn, runner
from conformance.echo import echo_server
from settings import Settings

# The largest messages of the Autobahn testsuite (section 9).
_LARGEST_BYTES = 16 * 1024 * 1024


async def _run(options: argparse.Namespace) -> bool:
    """Run what was asked for; return whether all went well."""
    most = Settings().max_frame_bytes
    async with echo_server(most) as port:
        print(f"RFC 6455, raw cases, against an echo socket (frames up to {most} bytes):", flush=True)
        sound = (await runner.run(port, most)).show()
    if options.raw:
        return sound
    try:
        python = await asyncio.to_thread(autobahn.install)
        async with echo_server(_LARGEST_BYTES) as port:
            print("RFC 6455, Autobahn testsuite:", flush=True)
            return (await autobahn.run(python, port, quick=options.quick)).show() and sound
    except autobahn.Unavailable as reason:
        print(f"  not run: {reason}. The raw cases cover the same sections.")
        return sound


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--raw", action="store_true", help="only the cases of our own: a second")
    parser.add_argument("--quick", action="store_true", help="leave out Autobahn's large messages")
    options = parser.parse_args()
    logs.configure("console", "warning")
    sound = asyncio.run(_run(options))
    print("No failure." if sound else "NOT conformant.")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
