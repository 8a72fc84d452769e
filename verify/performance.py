"""How fast it is, against what it has to be."""

import asyncio
import time

from verify.checks import Area, Figure, Found, expect, quantile
from verify.client import Socket
from verify.delivery import say
from verify.world import World

area = Area("Performance")

CONNECT_MS = 1000
DELIVERY_MS = 100
CONNECTIONS = 100
_AT_ONCE = 10


@area.check("A client is connected and greeted soon")
async def connect(world: World) -> Found:
    """From the first packet to ``connected``; the 95th percentile."""
    took = []
    for _ in range(5 if world.quick else 20):
        began = time.perf_counter()
        socket = await world.messages(world.alice)
        took.append((time.perf_counter() - began) * 1000)
        socket.close()
        await socket.closed()
    return Figure(quantile(took, 0.95), "ms", CONNECT_MS, f"p95 of {len(took)}, p50 {quantile(took, 0.5):.1f}")


@area.check("A message reaches the other person soon")
async def deliver(world: World) -> Found:
    """From ``message.send`` to ``message.new`` there, the commit in between; the 95th percentile."""
    conversation = await world.conversation()
    sockets = [await world.messages(world.alice), await world.messages(world.bob)]
    took = []
    for number in range(10 if world.quick else 60):
        sender, receiver = sockets[number % 2], sockets[1 - number % 2]
        arriving = asyncio.ensure_future(_arrival(receiver))
        began = time.perf_counter()
        ack = await say(sender, conversation, "how long does it take?")
        message_id, at = await arriving
        expect(message_id == ack["messageId"], "another message came")
        took.append((at - began) * 1000)
        await asyncio.sleep(0.11)  # two people write five a second each, which is the limit
    return Figure(quantile(took, 0.95), "ms", DELIVERY_MS, f"p95 of {len(took)}, p50 {quantile(took, 0.5):.1f}")


async def _arrival(socket: Socket) -> tuple[str, float]:
    frame = await socket.get("message.new", within=30)
    return frame["messageId"], time.perf_counter()


@area.check(f"{CONNECTIONS} connections at once are held")
async def hold(world: World) -> Found:
    """All of them answer, and the slowest answer is soon."""
    sockets = await _crowd(world)
    began = time.perf_counter()
    for socket in sockets:
        await socket.send("ping", ts=1)
    await asyncio.gather(*(socket.get("pong") for socket in sockets))
    took = (time.perf_counter() - began) * 1000
    return Figure(took, "ms", CONNECT_MS, f"until all {len(sockets)} had answered a ping")


@area.check(f"An event reaches {CONNECTIONS} connections soon")
async def fan_out(world: World) -> Found:
    """From the call that changes the bounty to the last of them, the commit in between."""
    sockets, bounty = await _crowd(world), await world.bounty()
    waiting = [
        asyncio.ensure_future(socket.get("bounty.status", id=bounty, status="in_progress")) for socket in sockets
    ]
    began = time.perf_counter()
    await world.set_status("in_progress")
    ids = {(await each)["eventId"] for each in waiting}
    took = (time.perf_counter() - began) * 1000
    expect(len(ids) == 1, "they heard of different events")
    await world.set_status("open")
    return Figure(took, "ms", DELIVERY_MS, f"the last of {len(sockets)}")


async def _crowd(world: World) -> list[Socket]:
    """Open the connections, some at a time; without SECRET they are nobody's, and wait for the limit on those."""
    sockets: list[Socket] = []
    for _ in range(0, CONNECTIONS, _AT_ONCE):
        sockets += await asyncio.gather(*(world.events(person=world.person()) for _ in range(_AT_ONCE)))
    return sockets
