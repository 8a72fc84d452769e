"""What this process has done since it started, in one reading. The dashboard tells two readings apart by a second,
the history by a minute: neither has counters of its own.
"""

from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from connections.traffic import Traffic
from services.conversations import Conversations
from services.messaging import Messaging
from services.receipts import Receipts


class Totals(Struct, frozen=True):
    """Numbers that only rise. The lists are counts by the bounds of their histograms."""

    messages: int
    recipients: int
    deliveries: int
    delivered: int
    read: int
    conversations: int
    connects: int
    disconnects: int
    errors: int
    latency: list[int]
    delivered_after: list[int]
    read_after: list[int]

    def since(self, earlier: "Totals") -> "Totals":
        """Return what has come since ``earlier``."""
        return Totals(*map(_gained, astuple(self), astuple(earlier)))

    @property
    def idle(self) -> bool:
        """Whether there was nothing."""
        return not any(any(value) if isinstance(value, list) else value for value in astuple(self))


class Vitals:
    """Reads the counters."""

    def __init__(
        self, traffic: Traffic, messaging: Messaging, receipts: Receipts, conversations: Conversations
    ) -> None:
        self._traffic = traffic
        self._messaging = messaging
        self._receipts = receipts
        self._conversations = conversations

    def read(self) -> Totals:
        """Return the numbers as of now."""
        messaging, receipts = self._messaging, self._receipts
        latency = messaging.latency.counts.copy()
        return Totals(
            messages=sum(latency),
            recipients=messaging.recipients,
            deliveries=messaging.deliveries,
            delivered=receipts.delivered,
            read=receipts.read,
            conversations=self._conversations.created,
            connects=self._traffic.opened.total(),
            disconnects=self._traffic.closed.total(),
            errors=self._traffic.failed(),
            latency=latency,
            delivered_after=receipts.delivered_after.counts.copy(),
            read_after=receipts.read_after.counts.copy(),
        )


def _gained(now: Any, earlier: Any) -> Any:
    if isinstance(now, list):
        return [one - other for one, other in zip(now, earlier, strict=True)]
    return now - earlier
