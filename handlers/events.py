"""``/events/subscribe``: the public stream of bounty changes."""

import re
from typing import Any, get_args

import msgspec

from connections.connection import Connection
from handlers.operation import operation
from handlers.rest import RestHandler
from handlers.socket import SocketHandler
from protocol import outbound
from protocol.answers import SubscribeInfo
from protocol.codes import AppError, ErrorCode
from protocol.inbound import (
    BOUNTY_STATUSES,
    MAX_TOPICS,
    EventsFrame,
    FrameDecoder,
    Ping,
    Subscribe,
    Unsubscribe,
    parse_id,
)
from protocol.outbound import encode, error_frame, timestamp
from protocol.queries import EventsQuery
from protocol.sockets import EventsServerFrame


class EventsHandler(SocketHandler):
    """One subscriber."""

    decoder = FrameDecoder[Any](EventsFrame)
    takes, sends = EventsFrame, EventsServerFrame
    query_type = EventsQuery
    answers = {Ping: outbound.Pong, Subscribe: outbound.Subscribed, Unsubscribe: outbound.Subscribed}
    endpoint = "events"
    public = True

    async def opened(self, connection: Connection) -> None:
        """Subscribe, greet, and resume where ``lastEventId`` says so."""
        events = self.context.bounty_events
        topics, after, faults = self._wishes()
        if after is None:
            self.context.registry.subscribe(connection, topics)
        connection.send_now(
            encode(
                outbound.Connection(
                    timestamp=timestamp(),
                    connection_id=connection.id,
                    last_event_id=events.position,
                    heartbeat_interval_ms=int(self.context.settings.heartbeat_interval_s * 1000),
                )
            )
        )
        for fault in faults:
            connection.send_now(error_frame(fault))
        if after is not None:
            await events.resume(connection, topics, after)

    def narrow(self, frame: Subscribe) -> None:
        """Narrow the stream to these bounties as well; an empty list means all again."""
        assert self.connection is not None
        topics = {*(self.connection.topics or ()), *map(str, frame.bounty_ids)} if frame.bounty_ids else None
        if topics is not None and len(topics) > MAX_TOPICS:
            raise AppError(ErrorCode.INVALID_FRAME, f"`bountyIds` would make more than {MAX_TOPICS} bounties.")
        self._set_topics(topics)

    def widen(self, frame: Unsubscribe) -> None:
        """Take these bounties out of the narrowed stream; with the last one, or an empty list, it is all again."""
        assert self.connection is not None
        topics = (self.connection.topics or set()).difference(frame.bounty_ids) if frame.bounty_ids else None
        self._set_topics(topics or None)

    def _set_topics(self, topics: set[str] | None) -> None:
        assert self.connection is not None
        self.context.registry.subscribe(self.connection, topics)
        self.connection.send_now(encode(outbound.Subscribed(bounty_ids=sorted(topics or ()))))

    def _wishes(self) -> tuple[set[str] | None, int | None, list[AppError]]:
        """Return the query's bounties and position, and what is wrong in it and was left out."""
        topics: set[str] = set()
        after: int | None = None
        faults: list[AppError] = []
        wanted = self.get_query_arguments("bountyId")
        if len(wanted) > MAX_TOPICS:
            faults.append(_wrong_query("bountyId", f"at most {MAX_TOPICS}"))
        for text in wanted[:MAX_TOPICS]:
            try:
                topics.add(parse_id(text))
            except ValueError:
                faults.append(_wrong_query("bountyId", "a UUID"))
        position = self.get_query_argument("lastEventId", None)
        if position is not None:
            if re.fullmatch(r"[0-9]{1,18}", position, re.ASCII):
                after = int(position)
            else:
                faults.append(_wrong_query("lastEventId", "a whole number from 0"))
        return topics or None, after, faults

    actions = {Ping: SocketHandler.answer_ping, Subscribe: narrow, Unsubscribe: widen}


def _wrong_query(name: str, expected: str) -> AppError:
    return AppError(ErrorCode.INVALID_FRAME, f"`{name}` in the query is wrong and was left out: expected {expected}.")


class SubscribeInfoHandler(RestHandler):
    """``GET /events/subscribe-info``: how to connect, for people."""

    authenticate = False
    rate_limited = False

    @operation(answer=SubscribeInfo)
    def get(self) -> None:
        """Say how to connect to the event stream."""
        scheme = "wss" if self.context.is_secure(self.request) else "ws"
        url = f"{scheme}://{self.request.host}/events/subscribe"
        info = SubscribeInfo(
            url=url,
            authentication="none needed",
            query={"bountyId": "only this bounty (may be repeated)", "lastEventId": "resume after this event"},
            events=_fields(EventsHandler.sends),
            commands=_fields(EventsFrame),
            statuses=list(BOUNTY_STATUSES),
            example=f"const ws = new WebSocket('{url}'); ws.onmessage = (e) => console.log(JSON.parse(e.data));",
        )
        self.answer(info)


def _fields(union: Any) -> dict[str, list[str]]:
    """Return {type: its fields} of a union of frames."""
    return {
        str(kind.__struct_config__.tag): [field.encode_name for field in msgspec.structs.fields(kind)]
        for kind in get_args(union)
    }
