"""Checks of the delivered and read cursors: they only go forward, and a receipt says what is stored."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from chaos.findings import Finding, short
from chaos.record import CALL, FRAME, Entry
from chaos.world import Stored

_READ = "read"
_DELIVERED = "delivered"
# (conversation, user, which cursor)
_Cursor = tuple[str, str, str]


def receipts_are_true(entries: list[Entry], stored: Stored) -> Finding:
    """A receipt names a stored message of somebody else, which the user's stored cursor has reached."""
    rows = {message.id: message for message in stored.messages}
    finding = Finding("receipt for a cursor that never moved", 0, [])
    for entry in entries:
        if entry.kind != FRAME or entry.data["type"] not in ("message.delivered", "message.read"):
            continue
        frame = entry.data
        finding.checked += 1
        delivered, read = stored.cursors.get((frame["conversationId"], frame["userId"]), (0, 0))
        row = rows.get(frame["messageId"])
        text = (
            f"socket {entry.socket} at {entry.at:.3f}: {frame['type']} {short(frame['conversationId'])}#{frame['seq']}"
        )
        if frame["seq"] > (read if frame["status"] == _READ else delivered):
            finding.breaches.append(f"{text} of {short(frame['userId'])}, whose cursors are {delivered}, {read}")
        elif row is None or (row.conversation_id, row.seq) != (frame["conversationId"], frame["seq"]):
            finding.breaches.append(f"{text} names {short(frame['messageId'])}, which is no such message")
        elif row.sender_id == frame["userId"]:
            finding.breaches.append(f"{text} is of one's own message")
    return finding


def cursors_go_forward(entries: list[Entry], stored: Stored) -> Finding:
    """No cursor is ever seen behind where it was seen before: by receipts, over REST and in the end in the database.

    A call that began after something was seen has to show at least that; what overlaps with it need not.
    """
    finding = Finding("cursor gone back", 0, [])
    seen: dict[_Cursor, list[tuple[int, int]]] = defaultdict(list)  # (place in the record, furthest by then)
    on_socket: dict[tuple[int, str, _Cursor], int] = {}
    seqs = {message.id: message.seq for message in stored.messages}
    for place, entry in enumerate(entries):
        for cursor, seq, began, kind in _sightings(entry, place, seqs):
            finding.checked += 1
            text = f"at {entry.at:.3f}: {cursor[2]} of {short(cursor[1])} in {short(cursor[0])} is #{seq}"
            known = seen[cursor]
            if kind == "receipt":
                before = on_socket.get((entry.socket, kind, cursor), 0)
                if seq <= before:
                    finding.breaches.append(f"{text}, after #{before} on the same socket")
                on_socket[entry.socket, kind, cursor] = seq
            elif kind == "list":
                at = bisect_left(known, (began, 0))
                if at and known[at - 1][1] > seq:
                    finding.breaches.append(f"{text}, after #{known[at - 1][1]}")
            known.append((place, max(seq, known[-1][1] if known else 0)))
    for (conversation_id, user_id, which), known in seen.items():
        delivered, read = stored.cursors.get((conversation_id, user_id), (0, 0))
        if known[-1][1] > (read if which == _READ else delivered):
            finding.breaches.append(
                f"{which} of {short(user_id)} in {short(conversation_id)} was #{known[-1][1]},"
                f" is stored as #{delivered}, #{read}"
            )
    return finding


def _sightings(entry: Entry, place: int, seqs: dict[str, int]) -> Iterator[tuple[_Cursor, int, int, str]]:
    """Yield (cursor, seq, since when at least, how it was seen)."""
    if entry.kind == FRAME and entry.data["type"] in ("message.delivered", "message.read"):
        frame = entry.data
        cursor = (frame["conversationId"], frame["userId"], frame["status"])
        yield cursor, frame["seq"], place, "receipt"
    elif entry.kind == CALL and entry.data["status"] == 200:
        call = entry.data
        if call["method"] == "GET" and "conversations" in call["body"]:
            for one in call["body"]["conversations"]:
                yield (one["id"], entry.who, _DELIVERED), one["deliveredSeq"], call["began"], "list"
                yield (one["id"], entry.who, _READ), one["readSeq"], call["began"], "list"
        elif call["path"].endswith("/messages/status") and call["body"]["updatedCount"]:
            reached = max(seqs.get(message_id, 0) for message_id in call["sent"]["messageIds"])
            yield (call["path"].split("/")[3], entry.who, call["sent"]["status"]), reached, call["began"], "mark"
