"""What a person reads in the end: a page in Markdown, a summary on the terminal."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby

from verify.checks import Outcome, Result
from verify.world import World

_MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✗", Outcome.SKIPPED: "–"}
_COLORS = {Outcome.PASSED: "32", Outcome.FAILED: "31", Outcome.SKIPPED: "33"}


def markdown(world: World, results: list[Result]) -> str:
    """Return the report."""
    where = "a server of its own, with an embedded PostgreSQL" if world.is_own else world.url
    command = "make verify" if world.is_own else f"make verify URL={world.url}"
    lines = [
        "# Verification report",
        "",
        f"**{_verdict(results)}** BountyExpo Realtime {world.version}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC:"
        f" {where}, checked from outside as its clients see it.",
        "",
        f"Made by `{command}` on {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}."
        " Client and server shared the machine."
        if world.is_own
        else f"Made by `{command}`.",
        "",
        "## In short",
        "",
        "| area | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
    ]
    for area, those in _by_area(results):
        counts = " | ".join(str(_count(those, outcome)) for outcome in Outcome)
        lines.append(f"| {area} | {counts} |")
    lines += ["", *_figures(results)]
    for area, those in _by_area(results):
        lines += ["", f"## {area}", "", "| what was checked | result | found |", "| --- | --- | --- |"]
        lines += [f"| {_cell(r.check.promise)} | {r.outcome.value} | {_cell(r.found)} |" for r in those]
    return "\n".join(lines) + "\n"


def summary(results: list[Result], *, colored: bool) -> str:
    """Return a few lines for the terminal: each area, what failed and why, the figures, the verdict."""

    def paint(outcome: Outcome, text: str) -> str:
        return f"\x1b[{_COLORS[outcome]}m{text}\x1b[0m" if colored else text

    lines = []
    for area, those in _by_area(results):
        failed, skipped = _count(those, Outcome.FAILED), _count(those, Outcome.SKIPPED)
        worst = Outcome.FAILED if failed else Outcome.SKIPPED if skipped == len(those) else Outcome.PASSED
        line = f"{_MARKS[worst]} {area:<24}{_count(those, Outcome.PASSED):>3} of {len(those)}"
        lines.append(paint(worst, line) + (f"   {skipped} skipped" if skipped else ""))
    for outcome in (Outcome.SKIPPED, Outcome.FAILED):
        those = [result for result in results if result.outcome is outcome]
        if those:
            lines += ["", f"{outcome.value.capitalize()}:"]
        for result in those:
            lines.append(paint(outcome, f"{_MARKS[outcome]} {result.check.area}: {result.check.promise}"))
            lines.append(f"    {result.found}{f', has to be {result.target}' if result.target else ''}")
    measured = [result for result in results if result.target]
    if measured:
        lines += ["", "Measured:"]
        lines += [f"  {result.check.promise:<52}{result.found}   {result.target}" for result in measured]
    verdict = Outcome.PASSED if is_good(results) else Outcome.FAILED
    return "\n".join([*lines, "", paint(verdict, _verdict(results))])


def is_good(results: list[Result]) -> bool:
    """Whether nothing failed, and something was tried."""
    outcomes = [result.outcome for result in results]
    return Outcome.FAILED not in outcomes and Outcome.PASSED in outcomes


def _verdict(results: list[Result]) -> str:
    failed, skipped = _count(results, Outcome.FAILED), _count(results, Outcome.SKIPPED)
    aside = f", {skipped} skipped" if skipped else ""
    if not is_good(results):
        return f"{failed} of {len(results)} checks failed{aside}."
    return f"{_count(results, Outcome.PASSED)} of {len(results)} checks passed{aside}."


def _figures(results: list[Result]) -> list[str]:
    measured = [result for result in results if result.target]
    if not measured:
        return []
    head = ["| measured | figure | target |", "| --- | --- | --- |"]
    return head + [f"| {_cell(r.check.promise)} | {_cell(r.found)} | {r.target} |" for r in measured]


def _by_area(results: list[Result]) -> Iterable[tuple[str, list[Result]]]:
    return [(area, list(those)) for area, those in groupby(results, lambda result: result.check.area)]


def _count(results: list[Result], outcome: Outcome) -> int:
    return sum(result.outcome is outcome for result in results)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:300]
