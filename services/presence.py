"""Who is online: per person, not per socket, with a grace so that a reconnect is no event."""

import asyncio

from msgspec import UNSET

from connections.broadcaster import Broadcaster
from connections.registry import Person, Registry
from protocol.outbound import PresenceUpdate, encode, timestamp


class Presence:
    """Presence.

    :param grace_s: how long after the last socket has closed a person still counts as online.
    """

    def __init__(self, registry: Registry, broadcaster: Broadcaster, *, grace_s: float) -> None:
        self._registry = registry
        self._broadcaster = broadcaster
        self._grace_s = grace_s
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    def arrived(self, person: Person) -> None:
        """A socket of this person's is ready; the first one makes them online."""
        leaving = self._leaving.pop(person.user_id, None)
        if leaving is not None:
            leaving.cancel()
        if not person.known:
            person.known = True
            for conversation_id in person.conversation_ids:
                self._tell(person, conversation_id, is_online=True)

    def departed(self, user_id: str) -> None:
        """A socket of this person's has closed; the last one makes them offline, after the grace."""
        person = self._registry.people.get(user_id)
        if person is None or person.connections or user_id in self._leaving:
            return
        loop = asyncio.get_running_loop()
        last_seen_at = timestamp()
        self._leaving[user_id] = loop.call_later(self._grace_s, self._gone, person, last_seen_at)

    def online_with(self, person: Person) -> list[str]:
        """Return who of the people that share a conversation with this one is online."""
        others = {
            other.user_id
            for conversation_id in person.conversation_ids
            for other in self._registry.people_in(conversation_id)
            if other.known
        }
        others.discard(person.user_id)
        return sorted(others)

    def introduce(self, person: Person, conversation_id: str, newcomers: list[Person]) -> None:
        """Tell a conversation that a person who was put into it is online, and them who else is.

        ``newcomers`` were put into it with them; each of those is introduced by a call of its own.
        """
        if not person.known:
            return
        self._tell(person, conversation_id, is_online=True)
        for other in self._registry.people_in(conversation_id):
            if other.known and other not in newcomers:
                frame = _frame(other, conversation_id, is_online=True, last_seen_at=None)
                self._broadcaster.send_droppable(frame, person.connections)

    def stop(self) -> None:
        """Forget who is about to leave."""
        for leaving in self._leaving.values():
            leaving.cancel()
        self._leaving.clear()

    def _gone(self, person: Person, last_seen_at: str) -> None:
        self._leaving.pop(person.user_id, None)
        if person.connections:
            return
        if person.known:
            for conversation_id in person.conversation_ids:
                self._tell(person, conversation_id, is_online=False, last_seen_at=last_seen_at)
        self._registry.forget_person(person)

    def _tell(self, person: Person, conversation_id: str, *, is_online: bool, last_seen_at: str | None = None) -> None:
        frame = _frame(person, conversation_id, is_online=is_online, last_seen_at=last_seen_at)
        sockets = self._registry.listening_to(conversation_id, except_user=person.user_id)
        self._broadcaster.send_droppable(frame, sockets)


def _frame(person: Person, conversation_id: str, *, is_online: bool, last_seen_at: str | None) -> bytes:
    return encode(
        PresenceUpdate(
            conversation_id=conversation_id,
            user_id=person.user_id,
            sender_id=person.user_id,
            is_online=is_online,
            timestamp=timestamp(),
            last_seen_at=UNSET if last_seen_at is None else last_seen_at,
        )
    )
