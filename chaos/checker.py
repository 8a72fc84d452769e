"""Every property that is checked, in the order in which they are printed."""

from collections.abc import Mapping

from chaos.check_cursors import cursors_go_forward, receipts_are_true
from chaos.check_events import EventChecks, changes_are_logged, log_is_whole
from chaos.check_messages import (
    Holdings,
    acked_is_stored,
    all_delivered,
    all_settled,
    no_gaps,
    one_place_a_key,
    stored_once,
    told_is_stored,
)
from chaos.check_sockets import SocketChecks
from chaos.findings import Finding
from chaos.record import CALL, CLOSED, FRAME, SENT, Entry
from chaos.world import Stored, World


def check(
    entries: list[Entry], stored: Stored, world: World, holdings: Holdings, unacked: Mapping[str, int]
) -> list[Finding]:
    """Return a finding for each property.

    :param holdings: what each device holds, everybody having synced.
    :param unacked: how many messages of each device were never acked.
    """
    sent = sum(entry.kind == SENT and entry.data["type"] == "message.send" for entry in entries)
    return [
        acked_is_stored(entries, stored),
        told_is_stored(entries, stored),
        stored_once(stored),
        no_gaps(stored),
        one_place_a_key(entries),
        *SocketChecks(entries, stored, world).findings,
        all_delivered(holdings, stored, world),
        all_settled(unacked, sent),
        receipts_are_true(entries, stored),
        cursors_go_forward(entries, stored),
        log_is_whole(stored),
        changes_are_logged(entries, stored),
        *EventChecks(entries, stored).findings,
        no_faults_of_our_own(entries),
    ]


def no_faults_of_our_own(entries: list[Entry]) -> Finding:
    """A fault around the server is never the server's: no INTERNAL, no 500, no close that blames the client."""
    finding = Finding("INTERNAL, 500, or an undue close or error", 0, [])
    for entry in entries:
        if entry.kind == FRAME and entry.data["type"] == "error":
            finding.checked += 1
            if entry.data["code"] not in ("STORE_UNAVAILABLE", "RATE_LIMITED"):
                finding.breaches.append(
                    f"socket {entry.socket} at {entry.at:.3f}: {entry.data['code']} {entry.data['message']}"
                )
        elif entry.kind == CALL:
            finding.checked += 1
            if entry.data["status"] not in (0, 200, 201, 204, 429, 503):
                finding.breaches.append(
                    f"at {entry.at:.3f}: {entry.data['method']} {entry.data['path']} {entry.data['status']}"
                )
        elif entry.kind == CLOSED:
            finding.checked += 1
            if entry.data["code"] in (1009, 1011, 4400, 4401):
                finding.breaches.append(f"socket {entry.socket} at {entry.at:.3f}: closed with {entry.data['code']}")
    return finding
