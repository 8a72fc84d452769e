"""The table: medians of the rounds with least and most, and what ours is of each peer's."""

import json
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.paths import RESULTS
from bench.runner import Figures

# Above this many cores used by others, wall-clock figures say more about the others.
_QUIET = 0.15
# Figures by contestant, run and name: the values of the rounds.
Rounds = dict[str, list[Figures]]

# What is shown of a scenario: the figure's name, its unit, whether more is better (None: neither).
_SHOWN: dict[str, list[tuple[str, str, bool | None]]] = {
    "fan_out": [
        ("recipients_per_s", "recipients/s", True),
        ("server_us", "µs CPU a recipient", False),
        ("first_to_last_ms", "ms first to last", False),
        ("publish_to_last_ms", "ms publish to last", False),
    ],
    "chat": [
        ("messages_per_s", "messages/s", True),
        ("p50_ms", "ms p50", False),
        ("p95_ms", "ms p95", False),
        ("p99_ms", "ms p99", False),
        ("server_us", "µs CPU a message", False),
        ("postgres_us", "µs CPU a message, Postgres", False),
    ],
    "group": [
        ("deliveries_per_s", "deliveries/s", True),
        ("p99_ms", "ms p99", False),
        ("server_us", "µs CPU a delivery", False),
    ],
    "connects": [("connects_per_s", "connects/s", True), ("server_us", "µs CPU a connect", False)],
    "memory": [
        ("kb_per_connection_1000", "KB a connection, 1,000", False),
        ("kb_per_connection_5000", "KB a connection, 5,000", False),
        ("kb_per_connection_10000", "KB a connection, 10,000", False),
    ],
    "replay": [
        ("messages_per_s", "messages/s", True),
        ("p50_ms", "ms for all", False),
        ("server_us", "µs CPU a message", False),
    ],
    "crowd": [
        ("p50_ms", "ms p50 of chat", False),
        ("p99_ms", "ms p99 of chat", False),
        ("max_ms", "ms at most", False),
        ("messages_per_s", "messages/s", True),
        ("missing", "messages missing", False),
        ("events_received_part", "of the events received", None),
    ],
    "mixed": [
        ("p99_ms", "ms p99 of chat", False),
        ("p99_ms_without", "ms p99 without events", False),
        ("messages_per_s", "messages/s", True),
        ("events_received_part", "of the events received", None),
    ],
}
_TITLES = {
    "fan_out": "Fan-out of an event to {} subscribers",
    "chat": "Persisted chat, {} in flight",
    "group": "Group of {}, one sender",
    "connects": "{} authenticated connects at once",
    "memory": "Memory, {} authenticated connections",
    "replay": "Replay of {} missed messages",
    "crowd": "{} connections, 1,000 messages/s, an event a second to all",
    "mixed": "Chat of 16 in flight while events go out to {}",
}
_GROWING = {"messages": "stored messages", "conversations": "conversations"}
_LOAD_LIMIT = "load_was_limit"
_OTHERS = "others_core"


def table(rounds: Rounds, labels: dict[str, str]) -> str:
    """Return the table as text.

    A mark * says that the load generator was at its own limit; ``others`` is how many cores other processes used.
    """
    lines: list[str] = []
    runs = sorted(
        {run for figures in rounds.values() for each in figures for run in each if run.partition(" ")[0] in _SHOWN},
        key=_order,
    )
    for run in runs:
        scenario, _, rest = run.partition(" ")
        lines += ["", _TITLES[scenario].format(rest.replace("ws ", "over WebSocket, ").replace("rest ", "over REST, "))]
        for name, unit, more_is_better in _SHOWN[scenario]:
            ours = _values(rounds, "ours", run, name)
            for contestant, label in labels.items():
                values = _values(rounds, contestant, run, name)
                if values:
                    mark = "*" if any(_values(rounds, contestant, run, _LOAD_LIMIT)) else " "
                    ratio = "" if contestant == "ours" else _ratio(ours, values, more_is_better)
                    others = _values(rounds, contestant, run, _OTHERS) if name == _SHOWN[scenario][0][0] else []
                    note = f"others {statistics.median(others):.1f}" if others else ""
                    lines.append(f"  {unit:<28}{label:<30}{_spread(values)}{mark} {ratio:<12} {note}".rstrip())
    return "\n".join(lines)


def growth_table(rounds: Rounds) -> str:
    """Return what a message costs at each size of the database, and against the first; empty if not measured."""
    sizes: dict[str, dict[int, Figures]] = {}
    for figures in rounds.get("ours", ()):
        for run in figures:
            scenario, _, rest = run.partition(" ")
            if scenario == "growth" and "p50_ms" in figures[run]:
                what, size = rest.split()
                sizes.setdefault(what, {})[int(size)] = figures
    lines: list[str] = []
    for what, found in sizes.items():
        lines += ["", f"Cost of a message as {_GROWING[what]} grow (ours; chat, 64 in flight)"]
        lines.append(
            f"  {what:>14}   server µs  Postgres µs   both µs   against first    ms p50   against first   others"
        )
        steps = [figures[f"growth {what} {size}"] for size, figures in sorted(found.items())]
        for size, each in zip(sorted(found), steps, strict=True):
            cost, time = each["both_us"] / steps[0]["both_us"], each["p50_ms"] / steps[0]["p50_ms"]
            lines.append(
                f"  {size:>14,}{each['server_us']:>12.1f}{each['postgres_us']:>13.1f}{each['both_us']:>10.1f}"
                f"{cost:>15.2f}×{each['p50_ms']:>10.2f}{time:>15.2f}×{each[_OTHERS]:>9.1f}"
            )
    return "\n".join(lines)


def disturbance(rounds: Rounds) -> str:
    """Return how much of the machine went to processes that are none of the benchmark's."""
    values = [
        run[_OTHERS] for figures in rounds.values() for each in figures for run in each.values() if _OTHERS in run
    ]
    if not values:
        return ""
    middle, most = statistics.median(values), max(values)
    said = f"Other processes used {middle:.2f} cores meanwhile (median; at most {most:.2f}) of {os.cpu_count()}"
    return (
        f"{said}: compare rows with alike `others` only, and CPU rather than time." if middle > _QUIET else f"{said}."
    )


def write(rounds: Rounds, labels: dict[str, str], skipped: dict[str, str], *, quick: bool) -> Path:
    """Write everything that was measured; return where."""
    now = datetime.now(UTC)
    content: dict[str, Any] = {
        "at": now.isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "load_average": os.getloadavg(),
        "labels": labels,
        "skipped": skipped,
        "rounds": rounds,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d-%H%M}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _values(rounds: Rounds, contestant: str, run: str, name: str) -> list[float]:
    found = (each.get(run, {}).get(name) for each in rounds.get(contestant, ()))
    return [value for value in found if value is not None]


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{_number(middle):>9}  ({_number(min(values))}–{_number(max(values))})".ljust(34)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _ratio(ours: list[float], theirs: list[float], more_is_better: bool | None) -> str:
    if not ours or more_is_better is None or not statistics.median(theirs):
        return ""
    return f"ours {statistics.median(ours) / statistics.median(theirs):.2f}×"


def _order(run: str) -> tuple[int, str, int]:
    scenario, _, rest = run.partition(" ")
    words = rest.split()
    number = int(words[-1]) if words and words[-1].isdigit() else 0
    return list(_SHOWN).index(scenario), " ".join(words[:-1]), number
