"""Who is in which conversation right now, as far as they are online: arriving, joining, being put in and taken out."""

import asyncio
import contextlib

import structlog

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.registry import Person, Registry
from protocol.codes import AppError
from protocol.outbound import Conversation, ConversationNew, encode
from services.presence import Presence
from services.typing import TypingIndicator
from storage import conversations

log = structlog.get_logger()

_RETRY_S = 0.5


class Conversations:
    """Keeps the registry's rooms the same as the database's participants.

    Whoever changes the participants, here, in another server or with psql, this server is told (``changed``) and
    brings its rooms in line.
    """

    def __init__(
        self,
        store: conversations.Conversations,
        registry: Registry,
        broadcaster: Broadcaster,
        presence: Presence,
        typing: TypingIndicator,
    ) -> None:
        self._store = store
        self._registry = registry
        self._broadcaster = broadcaster
        self._presence = presence
        self._typing = typing
        self._changed: set[str] = set()
        self._missed = False
        self._reconciling: asyncio.Task[None] | None = None
        self.created = 0

    async def arrive(self, connection: Connection, user_id: str) -> tuple[Person, conversations.Memberships]:
        """Put a new socket's user into all of their rooms, and return what was found for them.

        Raises ``AppError`` STORE_UNAVAILABLE.
        """
        person = self._registry.person(user_id)
        person.connections.add(connection)
        memberships = await self._store.of_user(user_id)
        if connection in person.connections:  # else it has closed meanwhile, and the person may be forgotten
            for conversation_id in memberships.conversation_ids:
                self._registry.enter(person, conversation_id)
        return person, memberships

    async def create(
        self, creator_id: str, participant_ids: list[str], bounty_id: str | None, *, is_group: bool
    ) -> tuple[Conversation, bool]:
        """Return a conversation of these people as its creator sees it, and whether it is new.

        Everybody in it who is online has been told. Raises ``AppError`` UNKNOWN_USER, NOT_FOUND.
        """
        conversation_id, is_new = await self._store.create(creator_id, participant_ids, bounty_id, is_group=is_group)
        if is_new:
            self.created += 1
            await self._reconcile({conversation_id})
        return (await self._store.views(conversation_id, [creator_id]))[creator_id], is_new

    def changed(self, conversation_id: str | None) -> None:
        """The participants of a conversation have changed, or (None) those of any may have, unnoticed."""
        if conversation_id is None:
            self._missed = True
        else:
            self._changed.add(conversation_id)
        if self._reconciling is None:
            self._reconciling = asyncio.create_task(self._keep_reconciling())

    async def stop(self) -> None:
        """End what goes on in the background."""
        if self._reconciling is not None:
            self._reconciling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconciling

    async def _keep_reconciling(self) -> None:
        try:
            while self._changed or self._missed:
                changed, self._changed = self._changed, set()
                missed, self._missed = self._missed, False
                try:
                    if missed:
                        changed |= await self._differing()
                    await self._reconcile(changed)
                except AppError:
                    self._changed |= changed
                    self._missed |= missed
                    await asyncio.sleep(_RETRY_S)
        except Exception:
            log.exception("conversations.reconcile_failed")
        finally:
            self._reconciling = None

    async def _differing(self) -> set[str]:
        """Return the conversations in which somebody online is, or is not, against the database."""
        people = list(self._registry.people.values())
        loaded = await asyncio.gather(*(self._store.of_user(person.user_id) for person in people))
        differing: set[str] = set()
        for person, memberships in zip(people, loaded, strict=True):
            differing |= person.conversation_ids ^ memberships.conversation_ids
        return differing

    async def _reconcile(self, conversation_ids: set[str]) -> None:
        if not conversation_ids:
            return
        for conversation_id, user_ids in (await self._store.participants(conversation_ids)).items():
            participants = set(user_ids)
            for person in list(self._registry.people_in(conversation_id)):
                if person.user_id not in participants:
                    self._typing.stop(person.user_id, conversation_id)
                    self._registry.leave(person, conversation_id)
            arriving = [user_id for user_id in user_ids if self._is_outside(user_id, conversation_id)]
            if arriving:
                await self._welcome(conversation_id, arriving)

    async def _welcome(self, conversation_id: str, user_ids: list[str]) -> None:
        """Put people into a room and tell them, with nothing in between: what happens in it comes after."""
        views = await self._store.views(conversation_id, user_ids)
        newcomers: list[Person] = []
        for user_id, view in views.items():
            if not self._is_outside(user_id, conversation_id):  # gone, or welcomed by another call meanwhile
                continue
            person = self._registry.people[user_id]
            self._registry.enter(person, conversation_id)
            if person.known:  # else they find it in `connected`
                self._broadcaster.send(encode(ConversationNew(conversation=view)), person.connections)
                newcomers.append(person)
        for person in newcomers:
            self._presence.introduce(person, conversation_id, newcomers)

    def _is_outside(self, user_id: str, conversation_id: str) -> bool:
        """Whether somebody is online and not in the room."""
        person = self._registry.people.get(user_id)
        return person is not None and conversation_id not in person.conversation_ids
