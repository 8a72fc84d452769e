"""Checks of each socket's frames: in order, once, none skipped, none that is a stranger's.

A ``sync`` asks for all past a place again, so the answer to one may go back to there, once.
"""

from collections import defaultdict

from chaos.findings import Finding, short
from chaos.record import CALL, CLOSED, FRAME, OPENED, QUIET, SENT, Entry
from chaos.world import Stored, World


class _Socket:
    """What one socket has been told, by conversation."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.last: dict[str, int] = {}
        self.seen: dict[str, set[int]] = defaultdict(set)
        # From a completed sync on, nothing past these places may be missing.
        self.base: dict[str, int] = {}
        # The sync under way: where it may go back to; a conversation is taken out once it has.
        self.syncing: dict[str, int] | None = None
        self.asked: dict[str, int] = {}


class SocketChecks:
    """Walks over the record once; ``findings`` has the results."""

    def __init__(self, entries: list[Entry], stored: Stored, world: World) -> None:
        self._sockets: dict[int, _Socket] = {}
        self._members = {name: set(people) for name, people in world.conversations.items()}
        self._last_seqs = stored.last_seqs
        self._order = Finding("out of order on a socket", 0, [])
        self._once = Finding("repeated on a socket", 0, [])
        self._strangers = Finding("delivered to a stranger", 0, [])
        self._skipped = Finding("skipped on a socket that was in step", 0, [])
        # A sender's own sockets do not hear of what went over REST.
        self._own_by_rest = _own_by_rest(entries, stored)
        for entry in entries:
            self._step(entry)
        self.findings = [self._order, self._once, self._skipped, self._strangers]

    def _step(self, entry: Entry) -> None:
        if entry.kind == OPENED:
            self._sockets[entry.socket] = _Socket(entry.who)
        elif entry.kind == CLOSED:
            self._sockets.pop(entry.socket, None)
        elif entry.kind == QUIET:
            self._look_at_ends(entry)
        socket = self._sockets.get(entry.socket)
        if socket is None:
            return
        if entry.kind == SENT and entry.data["type"] == "sync":
            socket.syncing = dict(entry.data["conversations"])
            socket.asked = dict(socket.syncing)
            for conversation_id in socket.syncing:
                socket.base.pop(conversation_id, None)
        elif entry.kind == FRAME:
            self._frame(socket, entry)

    def _frame(self, socket: _Socket, entry: Entry) -> None:
        frame = entry.data
        conversation_id = frame.get("conversationId") or frame.get("conversation", {}).get("id")
        if conversation_id is not None and frame["type"] != "error":
            self._strangers.checked += 1
            if entry.who not in self._members.get(conversation_id, ()):
                self._strangers.breaches.append(
                    f"{_where(entry)}: {short(entry.who)} got {frame['type']} of {short(conversation_id)}"
                )
        if frame["type"] == "message.new":
            self._message(socket, entry)
        elif frame["type"] == "message.ack":
            socket.seen[conversation_id].add(frame["seq"])
        elif frame["type"] == "sync.complete":
            for name, after in socket.asked.items():
                if name not in frame["truncated"]:
                    socket.base[name] = max(after, socket.last.get(name, 0))
            socket.syncing, socket.asked = None, {}
        elif frame["type"] == "error" and frame.get("requestType") == "sync":
            socket.syncing, socket.asked = None, {}

    def _message(self, socket: _Socket, entry: Entry) -> None:
        frame = entry.data
        conversation_id, seq = frame["conversationId"], frame["seq"]
        place = f"{_where(entry)}: {short(conversation_id)}#{seq}"
        last = socket.last.get(conversation_id, 0)
        if (
            seq <= last
            and frame.get("replayed")
            and socket.syncing is not None
            and seq > socket.syncing.get(conversation_id, last)
        ):
            del socket.syncing[conversation_id]  # it goes back to where the client asked from
            last = seq - 1
            socket.seen[conversation_id] = {known for known in socket.seen[conversation_id] if known < seq}
        seen = socket.seen[conversation_id]
        self._order.checked += 1
        self._once.checked += 1
        if seq <= last and seq in seen:
            self._once.breaches.append(f"{place} again, after #{last}")
        elif seq <= last:
            self._order.breaches.append(f"{place} after #{last}")
        base = socket.base.get(conversation_id)
        if base is not None:
            self._skipped.checked += 1
            self._look_for_holes(socket, entry, conversation_id, seq)
            socket.base[conversation_id] = max(base, seq)
        socket.last[conversation_id] = max(last, seq)
        seen.add(seq)

    def _look_for_holes(self, socket: _Socket, entry: Entry, conversation_id: str, until: int) -> None:
        seen = socket.seen[conversation_id]
        for seq in range(socket.base[conversation_id] + 1, until):
            if seq not in seen and (entry.who, conversation_id, seq) not in self._own_by_rest:
                self._skipped.breaches.append(
                    f"{_where(entry)}: {short(conversation_id)}#{seq} is missing before #{until}"
                )

    def _look_at_ends(self, quiet: Entry) -> None:
        """Look for what was never told, though the socket was there and in step, and there has been time."""
        for number, socket in self._sockets.items():
            for conversation_id in socket.base:
                self._look_for_holes(
                    socket,
                    quiet._replace(socket=number, who=socket.user_id),
                    conversation_id,
                    self._last_seqs.get(conversation_id, 0) + 1,
                )


def _where(entry: Entry) -> str:
    return f"socket {entry.socket} at {entry.at:.3f}"


def _own_by_rest(entries: list[Entry], stored: Stored) -> set[tuple[str, str, int]]:
    """Return (sender, conversation, seq) of every message that was, once at least, sent over REST."""
    keys = {
        (entry.who, entry.data["sent"]["text"].split()[0])
        for entry in entries
        if entry.kind == CALL and "text" in (entry.data["sent"] or {})
    }
    return {
        (message.sender_id, message.conversation_id, message.seq)
        for message in stored.messages
        if (message.sender_id, message.text.split()[0]) in keys
    }
