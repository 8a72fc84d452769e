"""The chart: ``python -m bench.chart bench/results/….json``, with bench/.venv's Python, writes the PNG beside it.

One small chart a figure, one bar a contestant: the median of the rounds, a line from the least to the most. Ours
comes first and in colour; hatched is what is no server but a limit.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_SIZE_INCHES, _DPI = (10.0, 7.9), 200  # 2,000 px wide; text is made for half of that
_OURS, _PEER, _LIMIT, _INK, _FAINT = "#c2410c", "#a9b4c2", "#e3e7ec", "#1f2937", "#6b7280"
_LIGHTER = {_OURS: "#f3a683", _PEER: "#d5dbe3"}
# The bars that each row has room for, so that all are as thick.
_ROWS = (7, 4, 4)
_TITLE_LEFT = -138
_LIMITS = ("c", "statement")
_SHORT = {"c": "limit: bare C loop", "statement": "limit: bare statement", "fastapi": "FastAPI + asyncpg"}
_SHORT |= {"tornado": "Tornado + momoko"}


@dataclass(frozen=True)
class _Panel:
    """One small chart: the first of ``sources`` (run, figure) that was measured; ``second`` is stacked on it."""

    title: str
    more_is_better: bool
    sources: tuple[tuple[str, str], ...]
    second: str = ""


_PANELS = [
    _Panel("Fan-out to {0}: recipients/s", True, tuple((f"fan_out {n}", "recipients_per_s") for n in (1000, 5000))),
    _Panel("Durable chat, 64 in flight: messages/s", True, (("chat ws 64", "messages_per_s"),)),
    _Panel("Durable chat, 64 in flight: p99, ms", False, (("chat ws 64", "p99_ms"),)),
    _Panel("CPU a message: server + PostgreSQL, µs", False, (("chat ws 64", "server_us"),), "postgres_us"),
    _Panel("Authenticated connects/s", True, tuple((f"connects {n}", "connects_per_s") for n in (2000, 1000))),
    _Panel(
        "Memory of an idle connection, at {1}: KB",
        False,
        tuple(("memory idle", f"kb_per_connection_{n}") for n in (10_000, 5000, 1000)),
    ),
]


def draw(results: Path) -> Path:
    """Draw the chart of a results file; return where it is."""
    measured = json.loads(results.read_text())
    plt.rcParams |= {"font.family": "DejaVu Sans", "font.size": 9.5, "text.color": _INK, "hatch.linewidth": 0.8}
    figure, axes = plt.subplots(3, 2, figsize=_SIZE_INCHES, dpi=_DPI, facecolor="white", height_ratios=_ROWS)
    for number, (panel, ax) in enumerate(zip(_PANELS, axes.flat, strict=True)):
        _panel(ax, panel, measured)
        ax.set_ylim(_ROWS[number // 2] - 0.5, -0.5)
    figure.text(0.012, 0.977, "BountyExpo Realtime and its peers", fontsize=14, fontweight="bold", va="top")
    figure.text(0.012, 0.946, _how(measured), fontsize=9.5, color=_FAINT, va="top")
    figure.tight_layout(rect=(0, 0, 1, 0.925), h_pad=2.0, w_pad=2.5)
    path = results.with_suffix(".png")
    figure.savefig(path)
    plt.close(figure)
    return path


def _panel(ax: Axes, panel: _Panel, measured: dict[str, Any]) -> None:
    run, name = _source(panel, measured)
    bars = [(each, values) for each in measured["labels"] if (values := _values(measured, each, run, name))]
    numbers = (run.rpartition(" ")[2], name.rpartition("_")[2])
    title = panel.title.format(*(f"{int(n):,}" if n.isdigit() else n for n in numbers))
    above = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    ax.annotate(title, xytext=(_TITLE_LEFT, 18), fontsize=11, fontweight="bold", color=_INK, **above)
    hint = "more is better" if panel.more_is_better else "less is better"
    ax.annotate(hint, xytext=(_TITLE_LEFT, 5), fontsize=8.5, color=_FAINT, **above)
    ax.axis("off")
    ends: list[float] = []
    for place, (contestant, values) in enumerate(bars):
        middle = statistics.median(values)
        colour = _OURS if contestant == "ours" else _LIMIT if contestant in _LIMITS else _PEER
        hatch = "////" if contestant in _LIMITS else None
        ax.barh(place, middle, height=0.68, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        text, end = _number(middle), max(values)
        if seconds := _values(measured, contestant, run, panel.second):
            second = statistics.median(seconds)
            ax.barh(place, second, left=middle, height=0.68, color=_LIGHTER.get(colour, colour), linewidth=0)
            text, end = f"{_number(middle)} + {_number(second)}", middle + second
        elif max(values) > min(values):
            ax.plot([min(values), max(values)], [place, place], color=_INK, linewidth=1.0, solid_capstyle="butt")
        weight = "bold" if contestant == "ours" else "normal"
        ink = _OURS if contestant == "ours" else _FAINT if contestant in _LIMITS else _INK
        ax.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", color=ink, weight=weight)
        label = _SHORT.get(contestant, measured["labels"][contestant])
        ax.annotate(
            label, (0, place), (-6, 0), textcoords="offset points", va="center", ha="right", color=ink, weight=weight
        )
        ends.append(end)
    if not bars:
        ax.text(0, 0.5, "not measured", transform=ax.transAxes, color=_FAINT)
        return
    ax.set_xlim(0, max(ends) * (1.42 if panel.second else 1.2))
    ax.plot([0, 0], [-0.5, len(bars) - 0.5], color=_FAINT, linewidth=0.8)


def _source(panel: _Panel, measured: dict[str, Any]) -> tuple[str, str]:
    for run, name in panel.sources:
        if any(_values(measured, each, run, name) for each in measured["labels"]):
            return run, name
    return panel.sources[0]


def _values(measured: dict[str, Any], contestant: str, run: str, name: str) -> list[float]:
    rounds = measured["rounds"].get(contestant, ())
    return [each[run][name] for each in rounds if name in each.get(run, ())]


def _how(measured: dict[str, Any]) -> str:
    """Return on what and when this was measured."""
    rounds = max(len(list(_turns(measured, each))) for each in measured["labels"])
    times = f"medians of {rounds} rounds (lines: least to most)" if rounds > 1 else "one short round"
    machine = f"{measured['machine']['cores']} cores shared by server, PostgreSQL (durable) and load"
    return f"{machine}; {times}; {measured['at'][:10]}"


def _turns(measured: dict[str, Any], contestant: str) -> Iterator[dict[str, Any]]:
    """Give the rounds of a contestant, without the steps of growth, which count for none."""
    for each in measured["rounds"].get(contestant, ()):
        if any(not run.startswith("growth") for run in each):
            yield each


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{draw(Path(argument))} drawn")
