"""The history: what a minute's row holds, that it is written once and by each process, and what is read back."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codes import AppError
from protocol.outbound import timestamp
from services import analytics
from storage.analytics import PEOPLE_BITS, Analytics, Minute, _estimate
from tests.harness import SOON_S, Server, token, until

Start = Callable[..., Awaitable[Server]]

ADMIN = {"app_metadata": {"role": "admin"}}
MINUTE = timedelta(minutes=1)


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server turn its minutes, which last a second."""
    monkeypatch.setattr(analytics, "_MINUTE_S", 1)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let a minute turn when the test says so, and not also when one happens to be over."""
    if "by_itself" not in request.fixturenames:

        async def wait(_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(analytics.Analytics, "run", wait)


def next_minute() -> datetime:
    """Return a moment in the next minute."""
    return datetime.now(UTC) + MINUTE


async def history(server: Server, span: str = "day", **claims: Any) -> Any:
    """Read the history as an administrator, past what the server keeps ready."""
    server.app.analytics._read.clear()
    headers = {"Authorization": f"Bearer {token(str(uuid.uuid4()), **(claims or ADMIN))}"}
    return await server.rest("GET", f"/dashboard/history?span={span}", headers=headers)


def row(minute: datetime, **values: int) -> Minute:
    """Return a minute in which nothing happened but ``values``."""
    counts = dict.fromkeys(Minute.__struct_fields__, 0) | values
    return Minute(**{**counts, "minute": minute, "delivered_after": [0] * 14, "read_after": [0] * 14})


async def test_a_minute_becomes_a_row(server: Server) -> None:
    """Messages, whom they were for, what reached them and when, conversations, coming and going, the most at once."""
    alice, bob, chat = await server.pair()
    carol = await server.person()
    group = await server.conversation(alice, bob, carol, isGroup=True)
    one, other = await server.messages(alice), await server.messages(bob)
    await one.say(chat, "to one")
    await one.say(group, "to two")
    await other.send("message.delivered", conversationId=chat, seq=1)
    await one.get("message.delivered")
    await other.send("message.read", conversationId=group, seq=1)
    await one.get("message.read")
    server.app.analytics.note()  # as each second
    await other.close()
    await until(lambda: server.app.registry.messaging_clients == 1)
    await server.app.analytics.turn(next_minute())
    columns = "messages, recipients, delivered, read, conversations, connects, disconnects, errors, peak_connections"
    assert server.sql(f"SELECT {columns} FROM analytics_minutes") == [(2, 3, 2, 1, 2, 2, 1, 0, 2)]
    waits = server.sql("SELECT delivered_after, read_after FROM analytics_minutes")
    assert [sum(counts) for counts in waits[0]] == [2, 1]
    assert waits[0][0][0] == 2, "both were delivered within a second"


async def test_minutes_turn_by_themselves(by_itself: None, server: Server) -> None:
    """The server writes each minute when it is over."""
    alice, _, chat = await server.pair()
    device = await server.messages(alice)
    await device.say(chat, "hello")
    await until(lambda: server.sql("SELECT sum(messages) FROM analytics_minutes") == [(1,)])
    await until(lambda: server.sql("SELECT count(*) > 2 FROM analytics_minutes") == [(True,)])


async def test_a_cursor_counts_what_it_passes(server: Server) -> None:
    """One receipt for many messages counts each; one's own do not count, nor does anything twice."""
    alice, bob, chat = await server.pair()
    one, other = await server.messages(alice), await server.messages(bob)
    for number in range(5):
        await one.say(chat, f"{number}")
        if number == 2:
            await other.say(chat, "mine")
    await other.send("message.delivered", conversationId=chat, seq=4)
    await other.send("message.delivered", conversationId=chat, seq=2)
    await other.send("message.read", conversationId=chat, seq=6)
    await other.send("message.read", conversationId=chat, seq=6)
    await one.get("message.read")
    await other.flush()
    receipts = server.app.context.receipts
    assert (receipts.delivered, receipts.read) == (5, 5)
    assert (receipts.delivered_after.count, receipts.read_after.count) == (2, 1)


async def test_marks_of_one_batch_count_once(server: Server) -> None:
    """Many marks of one cursor in one statement: each message counts once all the same."""
    alice, bob, chat = await server.pair()
    device = await server.messages(alice)
    for number in range(6):
        await device.say(chat, f"{number}")
    others = [await server.messages(bob, replay="0") for _ in range(5)]
    with server.locked("conversation_participants"):
        for place, other in enumerate(others):
            for seq in (place + 1, place + 2):
                await other.send("message.read", conversationId=chat, seq=seq)
        await until(lambda: server.app.context.traffic.received.total() >= 10)
    async with asyncio.timeout(SOON_S):
        while server.sql("SELECT min(read_seq) FROM conversation_participants WHERE user_id = %s", bob) != [(6,)]:
            await asyncio.sleep(0.01)
    await asyncio.gather(*(other.flush() for other in others))
    receipts = server.app.context.receipts
    assert (receipts.delivered, receipts.read) == (6, 6)


async def test_a_minute_is_written_once(server: Server) -> None:
    """Twice the same minute, as after a lost answer, is one row; an idle minute is none."""
    alice, _, chat = await server.pair()
    device = await server.messages(alice)
    await device.say(chat, "hello")
    now = next_minute()
    await server.app.analytics.turn(now)
    await server.app.analytics.turn(now)
    stored = Analytics(server.app.database)
    again = row(now.replace(second=0, microsecond=0), messages=7)
    for _ in range(2):
        await stored.write(str(uuid.UUID(int=1)), [again])
    assert server.sql("SELECT messages FROM analytics_minutes ORDER BY 1") == [(1,), (7,)]
    await device.close()
    await until(lambda: not server.app.registry.connections)
    await server.app.analytics.turn(now + MINUTE)  # holds the close
    rows = server.sql("SELECT count(*) FROM analytics_minutes")
    await server.app.analytics.turn(now + 2 * MINUTE)
    assert server.sql("SELECT count(*) FROM analytics_minutes") == rows


async def test_two_servers_add_up(start: Start) -> None:
    """Each writes rows of its own; the history has the sums, and a person who was at both is one."""
    one, other = await start(), await start()
    alice, bob, chat = await one.pair()
    for server in (one, other):
        device = await server.messages(alice)
        await device.say(chat, "hello")
        await server.app.analytics.turn(next_minute())
    await (await other.messages(bob)).flush()
    await other.app.analytics.turn(next_minute() + MINUTE)
    total = (await history(one)).body["total"]
    assert (total["messages"], total["activePeople"], total["peakConnections"]) == (2, 2, 2)
    assert server.sql("SELECT count(DISTINCT instance) FROM analytics_minutes") == [(2,)]


async def test_a_store_that_is_away_loses_no_minute(start: Start) -> None:
    """What can't be written is kept, and written later with the minute that it was."""
    server = await start(request_timeout_s=2)
    alice, _, chat = await server.pair()
    device = await server.messages(alice)
    await device.say(chat, "hello")
    now = next_minute()
    with server.locked("analytics_minutes"), pytest.raises(AppError):
        await server.app.analytics.turn(now)
    assert server.sql("SELECT count(*) FROM analytics_minutes") == [(0,)]
    await server.app.analytics.turn(now + MINUTE)
    messages = server.sql("SELECT messages FROM analytics_minutes ORDER BY minute")
    assert messages == [(1,), (0,)]
    assert (await history(server)).body["total"]["activePeople"] == 1


async def test_people_survive_a_store_that_is_away(start: Start) -> None:
    """An hour's people too are kept until they can be written."""
    server = await start(request_timeout_s=2)
    await server.messages(await server.person())
    now = next_minute()
    with server.locked("analytics_hours"), pytest.raises(AppError):
        await server.app.analytics.turn(now)
    await server.messages(await server.person())
    await server.app.analytics.turn(now + MINUTE)
    assert (await history(server)).body["total"]["activePeople"] == 2


async def test_a_server_that_stops_writes_its_last_minute(start: Start) -> None:
    """The minute that is not over is in the history all the same."""
    one, other = await start(), await start()
    alice, _, chat = await one.pair()
    device = await one.messages(alice)
    await device.say(chat, "hello")
    await one.stop()
    total = (await history(other)).body["total"]
    assert (total["messages"], total["activePeople"], total["newConversations"]) == (1, 1, 1)


async def test_who_stays_is_active_in_every_hour(server: Server) -> None:
    """A socket that stays open counts its person in the next hour too, and the span counts them once."""
    user = await server.person()
    await server.messages(user)
    now = datetime.now(UTC)
    await server.app.analytics.turn(now + MINUTE)
    await server.app.analytics.turn(now + timedelta(hours=1))
    assert server.sql("SELECT bit_count(people) FROM analytics_hours") == [(1,), (1,)]
    found = await Analytics(server.app.database).people(
        now.replace(minute=0, second=0, microsecond=0), now + timedelta(hours=2), 3600
    )
    assert found[None] == 1 and len(found) == 3


async def test_rates_and_times(server: Server) -> None:
    """The shares of what was sent that were delivered and read, and the medians of how long it took."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    written = row(now - MINUTE, messages=10, recipients=10, delivered=9, read=4)
    written.delivered_after[0], written.delivered_after[4] = 6, 2  # within a second; within half a minute
    written.read_after[5] = 3  # within a minute
    await Analytics(server.app.database).write(str(uuid.uuid4()), [written])
    total = (await history(server, "hour")).body["total"]
    assert (total["deliveryRate"], total["readRate"]) == (0.9, 0.4)
    assert total["deliveredAfterS"] == pytest.approx(4 / 6)
    assert 30 < total["readAfterS"] < 60
    empty = (await history(server, "hour")).body["points"][0]
    assert (empty["messages"], empty["deliveryRate"], empty["deliveredAfterS"]) == (0, None, None)


@pytest.mark.parametrize(("span", "count", "step_s"), [("hour", 60, 60), ("day", 24, 3600), ("month", 30, 86_400)])
async def test_spans(server: Server, span: str, count: int, step_s: int) -> None:
    """Each span has all of its steps, empty ones too, and each minute in the step that it was in."""
    store = Analytics(server.app.database)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    back = timedelta(seconds=(count - 1) * step_s)
    await store.write(str(uuid.uuid4()), [row(now - back, messages=5), row(now, messages=7)])
    await store.write(
        str(uuid.uuid4()), [row(now, messages=1), row(now - back - timedelta(seconds=step_s), messages=99)]
    )
    found = await server.app.analytics.load(span, now)
    assert (found.span, found.step_s, len(found.points)) == (span, step_s, count)
    messages = [point.messages for point in found.points]
    assert (messages[0], messages[-1], sum(messages)) == (5, 8, 13)
    assert found.total.messages == 13
    assert found.points[0].at < found.points[-1].at <= timestamp(now)
    assert (found.points[0].active_people is None) == (span == "hour")


async def test_busiest_hours(server: Server) -> None:
    """Messages of the last four weeks by weekday and hour, Monday first."""
    at = (datetime.now(UTC) - timedelta(days=3)).replace(minute=30, second=0, microsecond=0)
    store = Analytics(server.app.database)
    await store.write(str(uuid.uuid4()), [row(at, messages=3), row(at - timedelta(weeks=1), messages=4)])
    await store.write(str(uuid.uuid4()), [row(at - timedelta(weeks=5), messages=100)])
    busiest = (await history(server)).body["busiest"]
    assert (len(busiest), {len(day) for day in busiest}) == (7, {24})
    assert busiest[at.weekday()][at.hour] == sum(map(sum, busiest)) == 7


async def test_history_ends(start: Start) -> None:
    """ANALYTICS_RETENTION_DAYS: what is older goes, once an hour."""
    server = await start(analytics_retention_days=2)
    now = datetime.now(UTC)
    store = Analytics(server.app.database)
    for days in (1, 3):
        at = (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0)
        await store.write(str(uuid.uuid4()), [row(at, messages=days)])
        await store.add_people(at, bytes(PEOPLE_BITS // 8))
    await server.app.analytics.turn(now + MINUTE)
    await server.app.analytics.turn(now + timedelta(hours=1))
    assert server.sql("SELECT messages FROM analytics_minutes") == [(1,)]
    assert server.sql("SELECT count(*) FROM analytics_hours") == [(1,)]


async def test_for_administrators_only(server: Server) -> None:
    """A role of app_metadata; what a user may write themselves decides nothing."""
    assert (await server.rest("GET", "/dashboard/history")).status == 401
    for claims in ({"role": "authenticated"}, {"user_metadata": {"role": "admin"}}, {"app_metadata": {"role": "x"}}):
        answer = await history(server, **claims)
        assert (answer.status, answer.body["code"]) == (403, "FORBIDDEN")
    for role in ("admin", "super_admin"):
        assert (await history(server, app_metadata={"role": role})).status == 200
    assert (await history(server, "year")).body["code"] == "INVALID_REQUEST"


async def test_the_history_names_nobody(server: Server) -> None:
    """No id of a person or a conversation is in what is stored or read."""
    alice, _, chat = await server.pair()
    device = await server.messages(alice)
    await device.say(chat, "hello")
    await server.app.analytics.turn(next_minute())
    stored = str(server.sql("SELECT * FROM analytics_minutes, analytics_hours")) + str((await history(server)).body)
    assert alice not in stored and chat not in stored


@given(st.sets(st.uuids(), max_size=300))
def test_few_people_are_counted_nearly_exactly(people: set[uuid.UUID]) -> None:
    """Linear counting: two of a few hundred may share a bit, and the estimate allows for it."""
    bits = {analytics.place_of(str(person)) for person in people}
    assert abs(_estimate(len(bits)) - len(people)) <= max(3, len(people) * 0.02)


@pytest.mark.parametrize("number", [1, 2, 1000, 50_000, 200_000])
async def test_many_people_are_counted_closely(server: Server, number: int) -> None:
    """Within 1 % up to hundreds of thousands, through the bitmap and the database."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for person in range(number):
        server.app.analytics._see(hour, str(uuid.UUID(int=person)))
    await server.app.analytics.turn(next_minute())
    found = (await history(server)).body["total"]["activePeople"]
    assert abs(found - number) <= number * 0.01
