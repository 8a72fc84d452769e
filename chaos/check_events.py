"""Checks of the public event stream: every change is an event, every subscriber gets each once, in order."""

from collections import defaultdict

from chaos.findings import Finding, short
from chaos.record import CHANGE, CLOSED, FRAME, OPENED, STALLED, Entry
from chaos.world import Stored, StoredEvent


def log_is_whole(stored: Stored) -> Finding:
    """Event ids are 1, 2, 3, … and a bounty's last event is its status."""
    finding = Finding("event log with a gap", len(stored.events), [])
    ids = [event.event_id for event in stored.events]
    if ids != list(range(1, len(ids) + 1)):
        finding.breaches.append(f"{len(ids)} events, the ids end with {ids[-3:]}")
    last = {event.bounty_id: event.status for event in stored.events}
    for bounty_id, status in stored.statuses.items():
        if last.get(bounty_id) != status:
            finding.breaches.append(f"{short(bounty_id)} is {status}, its last event says {last.get(bounty_id)}")
    return finding


def changes_are_logged(entries: list[Entry], stored: Stored) -> Finding:
    """Each change that was told to be committed is in the log, in its order; none is there that nobody made."""
    finding = Finding("change without event, or event without change", 0, [])
    sure: dict[str, list[str]] = defaultdict(list)
    perhaps: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.kind == CHANGE and entry.data["known"] is not None:
            finding.checked += 1
            (sure if entry.data["known"] else perhaps)[entry.data["bounty"]].append(entry.data["status"])
    logged: dict[str, list[str]] = defaultdict(list)
    for event in stored.events:
        logged[event.bounty_id].append(event.status)
    for bounty_id in {*sure, *perhaps}:
        expected, possible = iter(sure[bounty_id]), list(perhaps[bounty_id])
        wanted = next(expected, None)
        for status in logged[bounty_id][1:]:  # the first is that it was made
            if status == wanted:
                wanted = next(expected, None)
            elif status in possible:
                possible.remove(status)
            else:
                finding.breaches.append(f"{short(bounty_id)}: an event {status}, which nobody made, before {wanted}")
        if wanted is not None:
            finding.breaches.append(f"{short(bounty_id)}: no event for {wanted}")
    return finding


class _Stream:
    """One socket of a subscriber."""

    def __init__(self, wanted: list[str], after: int | None) -> None:
        self.wanted = set(wanted)
        self.position = after
        self.stalled = False
        self.skipped: list[tuple[StoredEvent, str]] = []


class EventChecks:
    """Walks over the record once; ``findings`` has the results."""

    def __init__(self, entries: list[Entry], stored: Stored) -> None:
        self._events = {event.event_id: event for event in stored.events if event.event_id is not None}
        self._skipped = Finding("event skipped", 0, [])
        self._order = Finding("event repeated, or ids not rising", 0, [])
        self._true = Finding("event told but not in the log", 0, [])
        self._at_end = Finding("event not told at the end", 0, [])
        streams: dict[int, _Stream] = {}
        reached: dict[str, int] = {}
        for entry in entries:
            if entry.kind == OPENED and "bounties" in entry.data:
                streams[entry.socket] = _Stream(entry.data["bounties"], entry.data["after"])
            stream = streams.get(entry.socket)
            if stream is None:
                continue
            if entry.kind == STALLED:
                stream.stalled = True
            elif entry.kind == FRAME:
                self._frame(stream, entry)
                reached[entry.who] = stream.position or 0
            elif entry.kind == CLOSED:
                self._settle(streams.pop(entry.socket))
        for stream in streams.values():
            self._settle(stream)
        newest = max(self._events, default=0)
        self._at_end.checked = len(reached)
        for who, position in reached.items():
            if position < newest:
                self._at_end.breaches.append(f"{who} is at {position} of {newest}")
        self.findings = [self._order, self._skipped, self._true, self._at_end]

    def _frame(self, stream: _Stream, entry: Entry) -> None:
        frame = entry.data
        where = f"{entry.who} socket {entry.socket} at {entry.at:.3f}"
        if frame["type"] == "connection":
            if stream.position is None:
                stream.position = frame["lastEventId"]
        elif frame["type"] == "replay.complete":
            if not frame["truncated"]:
                self._pass(stream, frame["lastEventId"] + 1, where)
            stream.position = max(stream.position or 0, frame["lastEventId"])
        elif frame["type"] == "bounty.status":
            event_id = frame["eventId"]
            self._order.checked += 1
            self._true.checked += 1
            if stream.position is not None and event_id <= stream.position:
                self._order.breaches.append(f"{where}: {event_id} after {stream.position}")
            stored = self._events.get(event_id)
            if stored is None or (stored.bounty_id, stored.status) != (frame["id"], frame["status"]):
                self._true.breaches.append(f"{where}: {event_id} as {short(frame['id'])} {frame['status']}")
            self._pass(stream, event_id, where)
            stream.position = max(stream.position or 0, event_id)

    def _pass(self, stream: _Stream, until: int, where: str) -> None:
        """Note what lies between the stream's position and ``until`` and was not told."""
        for event_id in range((until if stream.position is None else stream.position + 1), until):
            self._skipped.checked += 1
            event = self._events.get(event_id)
            if event is not None and (not stream.wanted or event.bounty_id in stream.wanted):
                stream.skipped.append((event, f"{where}: {event_id} before {until}"))

    def _settle(self, stream: _Stream) -> None:
        """Count what was skipped; a reader that stalled is owed only the newest status of each bounty."""
        newest: dict[str, int] = {}
        for event_id in range(1, (stream.position or 0) + 1):
            if event_id in self._events:
                newest[self._events[event_id].bounty_id] = event_id
        for event, text in stream.skipped:
            if not (stream.stalled and newest.get(event.bounty_id, 0) > (event.event_id or 0)):
                self._skipped.breaches.append(text)
