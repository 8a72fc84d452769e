"""Runs the raw cases and handshakes, and says what did not go as it should."""

import asyncio
from collections import Counter
from collections.abc import Awaitable

from conformance import client
from conformance.cases import SECTIONS, Case, cases
from conformance.handshakes import Handshake, handshakes

_AT_ONCE = 8


class Tally:
    """How many cases each section has, and what failed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, list[str]] = {}
        # Verdicts other than yes and no, if there are any.
        self.notes: Counter[str] = Counter()

    def add(self, section: str, failure: str | None) -> None:
        """Count a case in."""
        self.counts[section] += 1
        if failure is not None:
            self.failures.setdefault(section, []).append(failure)

    def show(self) -> bool:
        """Print a line for each section and each failure; return whether there was none."""
        failed = sum(map(len, self.failures.values()))
        for section, count in self.counts.items():
            failures = self.failures.get(section, [])
            print(f"  {section:<28} {count - len(failures):>4} of {count:<4} {'FAILED' if failures else 'ok'}")
            for failure in failures:
                print(f"    {failure}")
        notes = "".join(f", {note} {count}" for note, count in self.notes.items())
        print(f"  {'in all':<28} {self.counts.total() - failed:>4} of {self.counts.total()}{notes}")
        return not self.failures


async def run_case(port: int, case: Case) -> str | None:
    """Return what went wrong, or None."""
    answers = len(case.answers) if case.code is None else None
    try:
        frames, end = await client.talk(port, case.pieces, answers)
    except (TimeoutError, OSError, AssertionError) as error:
        return f"{case.name}: {error!r}"
    wanted = client.End(1000 if case.code is None else case.code)
    if frames == case.answers and end == wanted:
        return None
    came = [(frame.opcode, len(frame.payload), frame.payload[:20]) for frame in frames[:3]]
    return f"{case.name}: {len(frames)} of {len(case.answers)} frames came, {came}; {end}, expected {wanted}"


async def run_handshake(port: int, handshake: Handshake) -> str | None:
    """Return what went wrong, or None."""
    try:
        status, head = await client.answer(port, handshake.request)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        return f"{handshake.name}: {error!r}"
    unwanted = "Sec-Websocket-Extensions" in head or "bearer" in head
    if status == handshake.status and handshake.tells in head and not unwanted:
        return None
    return f"{handshake.name}: expected {handshake.status}, got {head!r}"


async def run(port: int, max_frame_bytes: int) -> Tally:
    """Run everything against an echo socket."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def within(work: Awaitable[str | None]) -> str | None:
        async with room:
            return await work

    tally = Tally()
    all_handshakes, all_cases = handshakes(), cases(max_frame_bytes)
    outcomes = await asyncio.gather(
        *(within(run_handshake(port, each)) for each in all_handshakes),
        *(within(run_case(port, each)) for each in all_cases),
    )
    sections = ["opening handshake"] * len(all_handshakes)
    sections += [f"{case.section} {SECTIONS[case.section]}" for case in all_cases]
    for section, failure in zip(sections, outcomes, strict=True):
        tally.add(section, failure)
    return tally
