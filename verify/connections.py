"""Opening, holding, losing and resuming connections."""

from verify.checks import Area, Found, expect
from verify.world import World

area = Area("Connection management")


@area.check("The event stream greets")
async def events_greeting(world: World) -> Found:
    """``connection``, with all that a client needs to resume."""
    socket = await world.socket("/events/subscribe")
    greeting = await socket.get("connection")
    missing = {"message", "timestamp", "connectionId", "lastEventId", "heartbeatIntervalMs"} - greeting.keys()
    expect(not missing, f"`connection` lacks {', '.join(sorted(missing))}")
    return f"a heartbeat every {greeting['heartbeatIntervalMs'] / 1000:g} s"


@area.check("The messaging socket greets")
async def messages_greeting(world: World) -> Found:
    """``connected``, with the user's conversations."""
    conversation = await world.conversation()
    socket = await world.socket("/messages/subscribe", headers={"Authorization": f"Bearer {world.alice.token}"})
    greeting = await socket.get("connected")
    fields = {"message", "userId", "conversationIds", "timestamp", "connectionId", "onlineUserIds", "expiresAt"}
    missing = fields - greeting.keys()
    expect(not missing, f"`connected` lacks {', '.join(sorted(missing))}")
    expect(conversation in greeting["conversationIds"], "the user's conversation is not in it")
    return f"{len(greeting['conversationIds'])} conversations"


@area.check("Pings are answered on both sockets")
async def pings(world: World) -> Found:
    """With the same ``ts``."""
    for socket in (await world.events(), await world.messages(world.alice)):
        await socket.send("ping", ts=12345)
        await socket.get("pong", ts=12345)
    return "both"


@area.check("A person may have several devices")
async def devices(world: World) -> Found:
    """Two sockets of one user are open side by side, under different ids."""
    ids = set()
    for _ in range(2):
        socket = await world.socket("/messages/subscribe", headers={"Authorization": f"Bearer {world.alice.token}"})
        ids.add((await socket.get("connected"))["connectionId"])
    expect(len(ids) == 2, "both have the same id")
    return "two at once"


@area.check("Rooms are left and joined again")
async def rooms(world: World) -> Found:
    """``leave`` and ``join`` are answered."""
    conversation, socket = await world.conversation(), await world.messages(world.alice)
    await socket.send("leave", conversationId=conversation)
    await socket.get("left", conversationId=conversation)
    await socket.send("join", conversationId=conversation)
    await socket.get("joined", conversationId=conversation)
    return "left, joined"


@area.check("Presence follows the person")
async def presence(world: World) -> Found:
    """Online with the first socket, offline after the last one closes and its grace has passed."""
    await world.conversation()
    watcher = await world.messages(world.alice)
    other = await world.messages(world.bob)
    await watcher.get("presence.update", userId=world.bob.id, isOnline=True)
    other.close()
    gone = await watcher.get("presence.update", userId=world.bob.id, isOnline=False, within=20)
    expect(gone.get("lastSeenAt"), "it does not say since when")
    return "online, then offline"


@area.check("The event stream is narrowed to some bounties")
async def narrowing(world: World) -> Found:
    """``subscribe`` and ``unsubscribe``."""
    bounty, socket = await world.bounty(), await world.events()
    await socket.send("subscribe", bountyIds=[bounty])
    expect((await socket.get("subscribed"))["bountyIds"] == [bounty], "it was not narrowed")
    await socket.send("unsubscribe", bountyIds=[])
    expect((await socket.get("subscribed"))["bountyIds"] == [], "it was not widened")
    return "narrowed, widened"


@area.check("Who comes back gets the events that they missed")
async def resume(world: World) -> Found:
    """``lastEventId`` resumes: each event, in order."""
    bounty, before, ids = await world.bounty(), await world.events(), []
    for status in ("in_progress", "open"):
        await world.set_status(status)
        ids.append((await before.get("bounty.status", id=bounty, status=status))["eventId"])
    before.close()
    after = await world.events(f"?lastEventId={ids[0] - 1}&bountyId={bounty}")
    for status in ("in_progress", "open"):
        frame = await after.get("bounty.status", id=bounty)
        expect(frame["status"] == status and frame.get("replayed"), f"{frame['status']} instead of {status}")
    await after.get("replay.complete")
    return "both, in order"
