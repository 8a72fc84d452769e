"""The checker of the run of faults: each property holds for a sound record, and fails for one with its breach."""

from typing import Any

import pytest

from chaos.checker import check
from chaos.findings import Finding
from chaos.record import CALL, CHANGE, CLOSED, FAULT, FRAME, HEALED, OPENED, QUIET, SENT, STALLED, Entry
from chaos.recovery import recovered, recoveries
from chaos.world import Stored, StoredEvent, StoredMessage, World

ANN, BEN, EVE = "ann", "ben", "eve"
CHAT = "chat"
WORLD = World(people=[ANN, BEN, EVE], conversations={CHAT: [ANN, BEN]}, bounties={"bounty": ANN})


class Story:
    """A record by hand, and the database and devices that fit it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.messages: list[StoredMessage] = []
        self.cursors = {(CHAT, ANN): (0, 0), (CHAT, BEN): (0, 0)}
        self.events = [StoredEvent(1, "bounty", "open")]
        self.held: dict[str, dict[int, str]] = {ANN: {}, BEN: {}}
        self.unacked = {ANN: 0}
        self.last_seq: int | None = None
        for socket, who in ((1, ANN), (2, BEN), (3, EVE)):
            self.add(OPENED, who, socket, {"device": who})

    def add(self, kind: str, who: str = "", socket: int = 0, data: Any = None) -> None:
        self.entries.append(Entry(float(len(self.entries)), kind, who, socket, data))

    def store(self, seq: int, sender: str = ANN, key: str | None = None, message_id: str | None = None) -> None:
        key = key or f"key{seq}"
        row = StoredMessage(message_id or f"m{seq}", CHAT, seq, sender, key, f"{key} hello", float(seq))
        self.messages.append(row)

    def ack(self, seq: int, /, socket: int = 1, **fields: Any) -> None:
        frame = {"type": "message.ack", "clientMessageId": f"key{seq}", "messageId": f"m{seq}", "conversationId": CHAT,
                 "seq": seq, **fields}  # fmt: skip
        self.add(FRAME, ANN, socket, frame)

    def tell(self, seq: int, /, socket: int = 2, who: str = BEN, **fields: Any) -> None:
        frame = {"type": "message.new", "conversationId": CHAT, "messageId": f"m{seq}", "senderId": ANN, "seq": seq,
                 "clientMessageId": f"key{seq}", "text": f"key{seq} hello", **fields}  # fmt: skip
        self.add(FRAME, who, socket, frame)

    def sync(self, after: int, socket: int = 2) -> None:
        self.add(SENT, BEN, socket, {"type": "sync", "conversations": {CHAT: after}})

    def synced(self, socket: int = 2, truncated: tuple[str, ...] = ()) -> None:
        self.add(FRAME, BEN, socket, {"type": "sync.complete", "count": 0, "truncated": list(truncated)})

    def receipt(self, seq: int, who: str = BEN, kind: str = "delivered", socket: int = 1, **fields: Any) -> None:
        frame = {"type": f"message.{kind}", "status": kind, "conversationId": CHAT, "messageId": f"m{seq}",
                 "senderId": who, "userId": who, "seq": seq, **fields}  # fmt: skip
        self.add(FRAME, ANN, socket, frame)

    def listed(self, delivered: int, began: int | None = None) -> None:
        one = {"id": CHAT, "deliveredSeq": delivered, "readSeq": 0, "lastSeq": 9}
        began = len(self.entries) if began is None else began
        call = {"began": began, "method": "GET", "path": "/api/conversations", "sent": None, "status": 200}
        self.add(CALL, BEN, 0, {**call, "body": {"conversations": [one]}})

    def subscribe(self, after: int | None = None, socket: int = 9) -> None:
        self.add(OPENED, "subscriber", socket, {"after": after, "bounties": []})
        self.add(FRAME, "subscriber", socket, {"type": "connection", "lastEventId": after or 1})

    def event(self, event_id: int, status: str, socket: int = 9) -> None:
        frame = {"type": "bounty.status", "id": "bounty", "status": status, "eventId": event_id}
        self.add(FRAME, "subscriber", socket, frame)

    def change(self, status: str, *, known: bool = True, logged: bool = True) -> None:
        self.add(CHANGE, data={"bounty": "bounty", "status": status, "known": known})
        if logged:
            self.events.append(StoredEvent(len(self.events) + 1, "bounty", status))

    def breached(self) -> set[str]:
        """Return the names of the properties that do not hold."""
        return {finding.name for finding in self.findings() if finding.breaches}

    def findings(self) -> list[Finding]:
        last_seq = max((row.seq for row in self.messages), default=0) if self.last_seq is None else self.last_seq
        stored = Stored(
            messages=self.messages, last_seqs={CHAT: last_seq}, cursors=self.cursors, events=self.events,
            statuses={"bounty": self.events[-1].status},
        )  # fmt: skip
        holdings = {who: (who, {CHAT: held}) for who, held in self.held.items()}
        return check(self.entries, stored, WORLD, holdings, self.unacked)


@pytest.fixture
def story() -> Story:
    """Three messages of Ann's, acked, told, synced and held, with two changes of a bounty: all is sound."""
    story = Story()
    story.sync(0)
    story.synced()
    for seq in (1, 2, 3):
        story.store(seq)
        story.ack(seq)
        story.tell(seq)
        story.held[ANN][seq] = story.held[BEN][seq] = f"m{seq}"
    story.receipt(2)
    story.cursors[CHAT, BEN] = (2, 0)
    story.listed(2)
    story.subscribe()
    story.change("archived")
    story.change("open")
    story.event(2, "archived")
    story.event(3, "open")
    return story


def test_a_sound_record_breaches_nothing(story: Story) -> None:
    """And every property that has cases in it has looked at some."""
    assert story.breached() == set()
    assert {finding.name for finding in story.findings() if not finding.checked} == {
        "never acked, though sent again and again",
        "event skipped",
    }


def test_acked_but_missing(story: Story) -> None:
    story.ack(4)
    assert "acked but missing" in story.breached()


def test_acked_over_rest_but_missing(story: Story) -> None:
    message = {"id": "m4", "conversationId": CHAT, "senderId": ANN, "text": "key4 hello", "seq": 4}
    sent = {"text": "key4 hello"}
    call = {
        "began": 0,
        "method": "POST",
        "path": "…/messages",
        "sent": sent,
        "status": 201,
        "body": {"message": message},
    }
    story.add(CALL, ANN, 0, call)
    assert "acked but missing" in story.breached()


@pytest.mark.parametrize("fields", [{"messageId": "other"}, {"text": "key3 bye"}, {"senderId": EVE}, {"seq": 4}])
def test_told_but_not_stored(story: Story, fields: dict[str, Any]) -> None:
    story.add(OPENED, BEN, 4, {"device": BEN})
    story.tell(3, socket=4, **fields)
    assert "told but not stored" in story.breached()


def test_stored_twice_under_one_key(story: Story) -> None:
    story.store(4, key="key3")
    story.held[ANN][4] = story.held[BEN][4] = "m4"
    assert "stored twice" in story.breached()


@pytest.mark.parametrize("last_seq", [2, 4])
def test_last_seq_is_the_last(story: Story, last_seq: int) -> None:
    story.last_seq = last_seq
    assert "gap in seq" in story.breached()


def test_gap_in_seq(story: Story) -> None:
    story.store(5)
    assert "gap in seq" in story.breached()


def test_another_place_for_the_same_key(story: Story) -> None:
    story.ack(3, seq=4, duplicate=True)
    assert "another place for the same key" in story.breached()


def test_acked_twice_as_new(story: Story) -> None:
    story.ack(3)
    assert "another place for the same key" in story.breached()


def test_a_duplicate_with_the_same_place_is_sound(story: Story) -> None:
    story.ack(3, duplicate=True)
    assert story.breached() == set()


def test_out_of_order_on_a_socket(story: Story) -> None:
    story.add(OPENED, BEN, 4, {"device": BEN})
    story.tell(2, socket=4)
    story.tell(1, socket=4)
    assert story.breached() == {"out of order on a socket"}


def test_repeated_on_a_socket(story: Story) -> None:
    story.tell(3, replayed=True)
    assert story.breached() == {"repeated on a socket"}


def test_another_socket_is_told_again(story: Story) -> None:
    story.add(OPENED, BEN, 4, {"device": BEN})
    story.tell(3, socket=4, replayed=True)
    assert story.breached() == set()


def test_a_sync_goes_back_once_to_where_it_asked_from(story: Story) -> None:
    story.sync(1)
    story.tell(2, replayed=True)
    story.tell(3, replayed=True)
    story.synced()
    assert story.breached() == set()


def test_a_sync_goes_back_no_further(story: Story) -> None:
    story.sync(1)
    story.tell(1, replayed=True)
    assert "repeated on a socket" in story.breached()


def test_a_sync_goes_back_no_second_time(story: Story) -> None:
    story.sync(1)
    story.tell(2, replayed=True)
    story.tell(3, replayed=True)
    story.tell(3)
    assert story.breached() == {"repeated on a socket"}


def test_skipped_before_a_later_one(story: Story) -> None:
    for seq in (4, 5):
        story.store(seq)
        story.held[ANN][seq] = story.held[BEN][seq] = f"m{seq}"
    story.tell(5)
    assert story.breached() == {"skipped on a socket that was in step"}


def test_never_told_at_the_end(story: Story) -> None:
    story.store(4)
    story.held[ANN][4] = story.held[BEN][4] = "m4"
    story.add(QUIET)
    assert story.breached() == {"skipped on a socket that was in step"}


def test_ones_own_over_rest_is_not_told_to_ones_own_sockets(story: Story) -> None:
    story.store(4, sender=BEN)
    story.held[ANN][4] = story.held[BEN][4] = "m4"
    sent = {"text": "key4 hello"}
    story.add(CALL, BEN, 0, {"began": 0, "method": "POST", "path": "…", "sent": sent, "status": 0, "body": None})
    story.add(QUIET)
    assert story.breached() == set()


def test_a_truncated_sync_promises_nothing_yet(story: Story) -> None:
    story.store(4)
    story.held[ANN][4] = story.held[BEN][4] = "m4"
    story.sync(3)
    story.synced(truncated=(CHAT,))
    story.add(QUIET)
    assert story.breached() == set()


@pytest.mark.parametrize("kind", ["message.new", "typing.start", "presence.update", "message.read"])
def test_delivered_to_a_stranger(story: Story, kind: str) -> None:
    frame = {"type": kind, "conversationId": CHAT, "messageId": "m3", "senderId": ANN, "seq": 3, "text": "key3 hello",
             "clientMessageId": "key3", "userId": BEN, "status": "read"}  # fmt: skip
    story.add(FRAME, EVE, 3, frame)
    assert "delivered to a stranger" in story.breached()


def test_not_delivered_at_the_end(story: Story) -> None:
    del story.held[BEN][2]
    assert story.breached() == {"not delivered at the end"}


def test_holding_what_is_not_stored(story: Story) -> None:
    story.held[BEN][2] = "other"
    assert story.breached() == {"not delivered at the end"}


def test_never_acked(story: Story) -> None:
    story.unacked[ANN] = 1
    assert story.breached() == {"never acked, though sent again and again"}


@pytest.mark.parametrize(
    "receipt", [{"seq": 3}, {"seq": 2, "kind": "read"}, {"seq": 2, "messageId": "m1"}, {"seq": 1, "who": ANN}]
)
def test_receipt_for_a_cursor_that_never_moved(story: Story, receipt: dict[str, Any]) -> None:
    story.receipt(**receipt)
    assert "receipt for a cursor that never moved" in story.breached()


def test_receipts_go_forward_on_a_socket(story: Story) -> None:
    story.receipt(1)
    assert story.breached() == {"cursor gone back"}


def test_a_list_shows_no_less_than_was_seen_before(story: Story) -> None:
    story.listed(1)
    assert story.breached() == {"cursor gone back"}


def test_a_list_that_began_before_may_show_less(story: Story) -> None:
    story.listed(1, began=1)
    assert story.breached() == set()


def test_the_database_is_not_behind_what_was_seen(story: Story) -> None:
    story.listed(3)
    assert story.breached() == {"cursor gone back"}


def test_a_mark_that_was_answered_holds(story: Story) -> None:
    sent = {"messageIds": ["m3"], "status": "read"}
    call = {"began": 0, "method": "POST", "path": f"/api/conversations/{CHAT}/messages/status", "sent": sent}
    story.add(CALL, BEN, 0, {**call, "status": 200, "body": {"success": True, "updatedCount": 1}})
    assert story.breached() == {"cursor gone back"}


def test_event_log_with_a_gap(story: Story) -> None:
    story.events.append(StoredEvent(5, "bounty", "deleted"))
    assert "event log with a gap" in story.breached()


def test_an_event_that_was_not_numbered(story: Story) -> None:
    story.events.append(StoredEvent(None, "bounty", "deleted"))
    assert "event log with a gap" in story.breached()


def test_change_without_event(story: Story) -> None:
    story.change("deleted", logged=False)
    assert story.breached() == {"change without event, or event without change"}


def test_event_without_change(story: Story) -> None:
    story.events.append(StoredEvent(4, "bounty", "deleted"))
    story.event(4, "deleted")
    assert story.breached() == {"change without event, or event without change"}


@pytest.mark.parametrize("logged", [True, False])
def test_a_change_of_unknown_outcome_may_be_either(story: Story, logged: bool) -> None:
    story.change("deleted", known=False, logged=logged)
    if logged:
        story.event(4, "deleted")
    assert story.breached() == set()


@pytest.mark.parametrize("event_id", [2, 3])
def test_event_repeated(story: Story, event_id: int) -> None:
    story.event(event_id, story.events[event_id - 1].status)
    assert story.breached() == {"event repeated, or ids not rising"}


def test_event_skipped(story: Story) -> None:
    story.change("deleted")
    story.change("cancelled")
    story.event(5, "cancelled")
    assert story.breached() == {"event skipped"}


def test_event_skipped_by_a_resume(story: Story) -> None:
    story.change("deleted")
    story.add(CLOSED, "subscriber", 9, {"code": None})
    story.subscribe(after=3, socket=10)
    done = {"type": "replay.complete", "count": 0, "lastEventId": 4, "truncated": False}
    story.add(FRAME, "subscriber", 10, done)
    assert story.breached() == {"event skipped"}


def test_a_stalled_reader_is_owed_the_newest_of_each_bounty(story: Story) -> None:
    story.change("deleted")
    story.change("cancelled")
    story.add(STALLED, "subscriber", 9)
    story.event(5, "cancelled")
    assert story.breached() == set()


def test_event_told_but_not_in_the_log(story: Story) -> None:
    story.event(4, "deleted")
    assert story.breached() == {"event told but not in the log"}


def test_event_not_told_at_the_end(story: Story) -> None:
    story.change("deleted")
    assert story.breached() == {"event not told at the end"}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (FRAME, {"type": "error", "code": "INTERNAL", "message": ""}),
        (CLOSED, {"code": 1011}),
        (CALL, {"began": 0, "method": "POST", "path": "", "sent": None, "status": 500, "body": None}),
    ],
)
def test_faults_of_our_own(story: Story, kind: str, data: dict[str, Any]) -> None:
    story.add(kind, BEN, 2, data)
    assert story.breached() == {"INTERNAL, 500, or an undue close or error"}


def test_recovery_is_counted_from_the_end_of_the_fault(story: Story) -> None:
    story.add(FAULT, data={"kind": "freeze-postgres"})
    story.add(HEALED, data={"kind": "freeze-postgres"})
    healed_at = story.entries[-1].at
    story.event(4, "deleted")
    story.ack(4)
    (found,) = recoveries(story.entries, {ANN})
    assert (found.events_s, found.acks_s) == (1.0, story.entries[-1].at - healed_at)
    assert not recovered([found]).breaches


def test_never_recovered(story: Story) -> None:
    story.add(FAULT, data={"kind": "freeze-postgres"})
    story.add(HEALED, data={"kind": "freeze-postgres"})
    assert recovered(recoveries(story.entries, {ANN})).breaches
