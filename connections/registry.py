"""Every open connection: by id, by user, by address, by person and room, by topic.

Presence, limits and membership are counted from here, never kept as numbers of their own: such numbers drift.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from connections.connection import Connection

Value = TypeVar("Value")

# The endpoint of a dashboard's socket.
DASHBOARD = "dashboard"


class Person:
    """Somebody with an open messaging socket, or who had one a moment ago (presence has a grace)."""

    __slots__ = ("connections", "conversation_ids", "known", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.connections: set[Connection] = set()
        self.conversation_ids: set[str] = set()
        # Whether others were told that this person is online.
        self.known = False


class Registry:
    """What is open right now."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self.people: dict[str, Person] = {}
        self._of_user: dict[str, set[Connection]] = {}
        self._of_address: dict[str, set[Connection]] = {}
        self._rooms: dict[str, set[Person]] = {}
        # Dashboards: they get no stream of the app's and are no client of it.
        self.dashboards: set[Connection] = set()
        self._all_events: set[Connection] = set()
        self._topics: dict[str, set[Connection]] = {}

    # Counting

    def count_of_user(self, user_id: str) -> int:
        """Return the user's open sockets, both endpoints together."""
        return len(self._of_user.get(user_id, ()))

    def count_of_address(self, address: str) -> int:
        """Return the address's open sockets that belong to no user."""
        return len(self._of_address.get(address, ()))

    @property
    def event_clients(self) -> int:
        """Open sockets of the event stream."""
        return len(self.connections) - self.messaging_clients - len(self.dashboards)

    @property
    def messaging_clients(self) -> int:
        """Open messaging sockets."""
        return sum(len(person.connections) for person in self.people.values())

    @property
    def rooms(self) -> int:
        """Conversations with somebody online."""
        return len(self._rooms)

    def online(self, user_id: str) -> bool:
        """Whether the user has an open messaging socket, or had one within the grace."""
        return user_id in self.people

    # Coming and going

    def add(self, connection: Connection) -> None:
        """Count a connection from now on."""
        self.connections[connection.id] = connection
        if connection.endpoint == DASHBOARD:
            self.dashboards.add(connection)
        if connection.user_id is None:
            self._of_address.setdefault(connection.address, set()).add(connection)
        else:
            self._of_user.setdefault(connection.user_id, set()).add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, wherever it was. Idempotent."""
        self.connections.pop(connection.id, None)
        self.dashboards.discard(connection)
        if connection.user_id is None:
            _discard(self._of_address, connection.address, connection)
        else:
            _discard(self._of_user, connection.user_id, connection)
            person = self.people.get(connection.user_id)
            if person is not None:
                person.connections.discard(connection)
        self._all_events.discard(connection)
        for topic in connection.topics or ():
            _discard(self._topics, topic, connection)

    # People and rooms

    def person(self, user_id: str) -> Person:
        """Return the person, counted as online from now on."""
        person = self.people.get(user_id)
        if person is None:
            person = self.people[user_id] = Person(user_id)
        return person

    def forget_person(self, person: Person) -> None:
        """Take a person who went offline out of every room."""
        for conversation_id in person.conversation_ids:
            _discard(self._rooms, conversation_id, person)
        self.people.pop(person.user_id, None)

    def enter(self, person: Person, conversation_id: str) -> bool:
        """Put a person into a room; return whether they were not in it yet."""
        if conversation_id in person.conversation_ids:
            return False
        person.conversation_ids.add(conversation_id)
        self._rooms.setdefault(conversation_id, set()).add(person)
        return True

    def leave(self, person: Person, conversation_id: str) -> None:
        """Take a person out of a room."""
        person.conversation_ids.discard(conversation_id)
        _discard(self._rooms, conversation_id, person)

    def people_in(self, conversation_id: str) -> set[Person]:
        """Return who of a conversation is online. Not to be changed."""
        return self._rooms.get(conversation_id, _NOBODY)

    def connections_of(self, user_ids: Iterable[str]) -> Iterator[Connection]:
        """Yield the open messaging sockets of these users."""
        people = self.people
        for user_id in user_ids:
            person = people.get(user_id)
            if person is not None:
                yield from person.connections

    def listening_to(self, conversation_id: str, except_user: str) -> Iterator[Connection]:
        """Yield the sockets that want a conversation's typing and presence, but for one user's."""
        for person in self.people_in(conversation_id):
            if person.user_id != except_user:
                for connection in person.connections:
                    if connection.left_rooms is None or conversation_id not in connection.left_rooms:
                        yield connection

    # The event stream

    def subscribe(self, connection: Connection, topics: set[str] | None) -> None:
        """Give a connection the event stream, all of it or narrowed to ``topics``; one that has closed gets nothing."""
        if connection.id not in self.connections:  # it would be kept for ever
            return
        for topic in connection.topics or ():
            _discard(self._topics, topic, connection)
        connection.topics = topics
        if topics is None:
            self._all_events.add(connection)
            return
        self._all_events.discard(connection)
        for topic in topics:
            self._topics.setdefault(topic, set()).add(connection)

    def subscribers(self, topic: str) -> list[Connection]:
        """Return who gets a topic's events, as of now."""
        return [*self._all_events, *self._topics.get(topic, ())]


_NOBODY: set[Person] = set()


def _discard(index: dict[str, set[Value]], key: str, value: Value) -> None:
    """Take a value out of an index, and the key with its last value: an empty set a key would be a leak."""
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]
