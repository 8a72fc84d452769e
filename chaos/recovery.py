"""How long it takes after a fault until things work again, and whether the loop stalled meanwhile."""

from pathlib import Path

from msgspec import Struct

from chaos.findings import Finding
from chaos.record import FAULT, FRAME, HEALED, Entry

# The targets. PostgreSQL that was killed is counted from its death: starting it again is the server's work.
TARGET_S, TARGET_POSTGRES_S = 2.0, 5.0
# A breach only past this many times the target: the machine may be shared. What is past the target is counted.
_SLACK = 5
STALL_MS = 100.0
_STALL_BREACH_MS = 250.0


class Recovery(Struct):
    """One fault: the seconds from its end until a healthy client was acked, and a subscriber had an event, again."""

    kind: str
    acks_s: float
    events_s: float


def recoveries(entries: list[Entry], healthy: set[str]) -> list[Recovery]:
    """Return one for each fault that has ended.

    :param healthy: users who send all the time; each of them has to be acked again.
    """
    found: list[Recovery] = []
    began = 0.0
    for place, entry in enumerate(entries):
        if entry.kind == FAULT:
            began = entry.at
        elif entry.kind == HEALED:
            kind = entry.data["kind"]
            since = began if kind == "kill-postgres" else entry.at
            acked: dict[str, float] = {}
            event: float | None = None
            for later in entries[place:]:
                if later.kind != FRAME:
                    continue
                if later.data["type"] == "message.ack" and later.who in healthy:
                    acked.setdefault(later.who, later.at - since)
                elif later.data["type"] == "bounty.status" and event is None:
                    event = later.at - since
                if event is not None and len(acked) == len(healthy):
                    break
            never = float("inf")
            last = max(acked.values()) if len(acked) == len(healthy) else never
            found.append(Recovery(kind, last, never if event is None else event))
    return found


def recovered(found: list[Recovery]) -> Finding:
    """Say how long it took at most, by kind; a breach is what took far longer than the target."""
    finding = Finding("not at work again in time", len(found), [])
    for one in found:
        target_s = TARGET_POSTGRES_S if one.kind == "kill-postgres" else TARGET_S
        if one.acks_s > target_s * _SLACK or one.events_s > target_s * _SLACK:
            finding.breaches.append(f"{one.kind}: acks after {one.acks_s:.1f} s, events after {one.events_s:.1f} s")
    return finding


def table(found: list[Recovery]) -> str:
    """Return a line for each kind of fault: how many, the slowest return of acks and of events, how many late."""
    lines = ["recovery, by kind of fault           count   acks max   events max   over target"]
    for kind in sorted({one.kind for one in found}):
        those = [one for one in found if one.kind == kind]
        target_s = TARGET_POSTGRES_S if kind == "kill-postgres" else TARGET_S
        late = sum(one.acks_s > target_s for one in those)
        acks, events = max(one.acks_s for one in those), max(one.events_s for one in those)
        lines.append(f"  {kind:34} {len(those):5} {acks:8.2f} s {events:10.2f} s {late:6} of {target_s:.0f} s")
    return "\n".join(lines)


def stalls(pings: Path, entries: list[Entry]) -> tuple[Finding, str]:
    """Return a finding of the loop's stalls while faults were on, and a line with the figures, calm for comparison."""
    windows: list[tuple[float, float]] = []
    for entry in entries:
        if entry.kind == FAULT:
            windows.append((entry.at, float("inf")))
        elif entry.kind == HEALED:
            windows[-1] = (windows[-1][0], entry.at)
    during: list[float] = []
    calm: list[float] = []
    finding = Finding(f"loop stalled over {_STALL_BREACH_MS:.0f} ms during a fault", 0, [])
    for line in pings.read_text().splitlines() if pings.exists() else ():
        if len(line.split()) != 3:
            continue
        at, took_ms, raw_ms = map(float, line.split())
        is_during = any(begin <= at <= end for begin, end in windows)
        (during if is_during else calm).append(took_ms)
        if is_during and took_ms > _STALL_BREACH_MS:
            finding.breaches.append(f"at {at:.3f}: {took_ms:.0f} ms ({raw_ms:.0f} ms with what other processes took)")
    finding.checked = len(during)
    return finding, f"loop stalls over {STALL_MS:.0f} ms: during faults {_over(during)}; in calm {_over(calm)}"


def _over(times_ms: list[float]) -> str:
    over = sum(took_ms > STALL_MS for took_ms in times_ms)
    return f"{over} of {len(times_ms)} pings, longest {max(times_ms, default=0.0):.0f} ms"
