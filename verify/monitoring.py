"""Whether an operator sees what is going on."""

from verify.checks import Area, Found, Skipped, expect
from verify.world import World

area = Area("Monitoring")


@area.check("The statistics count open sockets")
async def counts(world: World) -> Found:
    """One more of each while we hold one more of each."""
    before = (await world.call("GET", "/events/stats")).body
    events, messages = await world.events(), await world.messages(world.alice)
    after = (await world.call("GET", "/events/stats")).body
    for socket in (events, messages):
        await socket.flush()
    pairs = {
        "events": (before["events"]["wsClientCount"], after["events"]["wsClientCount"]),
        "messaging": (before["messaging"]["totalClients"], after["messaging"]["totalClients"]),
    }
    if world.is_own:  # elsewhere others come and go
        stuck = [name for name, (was, now) in pairs.items() if now <= was]
        expect(not stuck, f"not counted: {', '.join(stuck)}")
    return ", ".join(f"{name} {was} → {now}" for name, (was, now) in pairs.items())


@area.check("Messaging has statistics of its own")
async def messaging(world: World) -> Found:
    """Clients, rooms, people online."""
    body = (await world.call("GET", "/messages/stats")).body
    missing = {"totalClients", "totalRooms", "onlineUsers", "timestamp"} - body.keys()
    expect(not missing, f"no {', '.join(sorted(missing))}")
    return f"up for {body['uptimeS']:.0f} s"


@area.check("They tell nobody's ids")
async def no_ids(world: World) -> Found:
    """Counts and states only, while people are online."""
    await world.messages(world.alice)
    for path in ("/health", "/health/detailed", "/events/stats", "/messages/stats"):
        text = (await world.call("GET", path)).text
        expect(world.alice.id not in text, f"{path} names somebody")
    return "none"


@area.check("A request's id comes back, for finding it in the logs")
async def request_id(world: World) -> Found:
    """``X-Request-Id``."""
    answer = await world.call("GET", "/health", headers={"X-Request-Id": "verify-1"})
    expect(answer.headers.get("X-Request-Id") == "verify-1", f"it is {answer.headers.get('X-Request-Id')}")
    return "the same"


@area.check("Calls tell how many are left")
async def rate_headers(world: World) -> Found:
    """``X-RateLimit-…``."""
    headers = (await world.call("GET", "/api/conversations", person=world.alice)).headers
    if "X-RateLimit-Limit" not in headers:
        raise Skipped("REST_RATE_PER_MINUTE is 0: no limit is set")
    return f"{headers['X-RateLimit-Remaining']} of {headers['X-RateLimit-Limit']} left"
