"""What every check returns, and what they share in reading a record."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from chaos.record import CALL, FRAME, Entry

# Breaches of one property that are printed; the rest is counted.
_SHOWN = 5


class Finding(Struct):
    """One property: how many cases were looked at, and each breach in words."""

    name: str
    checked: int
    breaches: list[str]

    def lines(self) -> str:
        """Return what is printed of it."""
        verdict = "ok    " if not self.breaches else "BREACH"
        shown = [f"{verdict} {self.name:44} {len(self.breaches):5} of {self.checked}"]
        shown += [f"         {breach}" for breach in self.breaches[:_SHOWN]]
        if len(self.breaches) > _SHOWN:
            shown.append(f"         … and {len(self.breaches) - _SHOWN} more")
        return "\n".join(shown)


class Told(NamedTuple):
    """A message as some client was told of it, by ``message.new``, an ack or a REST answer."""

    entry: Entry
    how: str
    key: str
    conversation_id: str
    seq: int
    message_id: str
    sender_id: str
    duplicate: bool
    text: str | None


def told(entries: list[Entry]) -> Iterator[Told]:
    """Yield each time that a client was told of a message, in order. An ack's ``who`` is the sender."""
    for entry in entries:
        if entry.kind == FRAME:
            frame = entry.data
            if frame["type"] == "message.ack":
                yield Told(entry, "ack", frame["clientMessageId"], *_place(frame), entry.who,
                           frame.get("duplicate", False), None)  # fmt: skip
            elif frame["type"] == "message.new":
                yield Told(entry, "new", frame["clientMessageId"], *_place(frame), frame["senderId"], False,
                           frame["text"])  # fmt: skip
        elif entry.kind == CALL and entry.data["status"] == 201 and "message" in (entry.data["body"] or {}):
            message = entry.data["body"]["message"]
            yield Told(entry, "rest", message["text"].split()[0], message["conversationId"], message["seq"],
                       message["id"], message["senderId"], False, message["text"])  # fmt: skip


def _place(frame: dict[str, Any]) -> tuple[str, int, str]:
    return frame["conversationId"], frame["seq"], frame["messageId"]


def short(identifier: str) -> str:
    """Return an id as it is shown."""
    return identifier[:8]
