"""Whether the server is there, with all that it stands on."""

import asyncio
import time

from verify.checks import Area, Figure, Found, expect
from verify.client import PATIENCE_S
from verify.world import World

_AGAIN_S = 0.2

area = Area("Infrastructure")


@area.check("It answers, and says what it is")
async def index(world: World) -> Found:
    """``/`` names the service and its version."""
    answer = await world.call("GET", "/")
    expect(answer.status == 200 and answer.body, f"GET / gave {answer.status}")
    expect(answer.body.get("service") == "bountyexpo-realtime", f"another service answers: {answer.text[:80]}")
    world.version = str(answer.body["version"])
    return f"bountyexpo-realtime {world.version}"


@area.check("The database is connected")
async def health(world: World) -> Found:
    """``/health`` is 200 and says so."""
    answer = await world.call("GET", "/health")
    expect(answer.status == 200, f"GET /health gave {answer.status}: {answer.text[:160]}")
    expect(answer.body["database"] == "connected", f"the database is {answer.body['database']}")
    return "connected"


@area.check("Every part is up, or off on purpose")
async def parts(world: World) -> Found:
    """``/health/detailed`` has nothing that is down, or that stays so: a server that just started connects some."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        answer = await world.call("GET", "/health/detailed")
        states = {name: part["status"] for name, part in (answer.body or {}).items() if isinstance(part, dict)}
        expect(states, f"GET /health/detailed gave {answer.status}")
        down = [name for name, state in states.items() if state not in ("up", "off")]
        if not down:
            break
        expect(time.monotonic() < give_up, f"down: {', '.join(down)}")
        await asyncio.sleep(_AGAIN_S)
    return ", ".join(f"{name} {state}" for name, state in states.items())


@area.check("The database is near")
async def database_latency(world: World) -> Found:
    """One round trip, as the server measures it."""
    answer = await world.call("GET", "/health/detailed")
    latency = answer.body["database"]["latencyMs"]
    expect(latency is not None, "the database does not answer")
    return Figure(float(latency), "ms", below=50)


@area.check("The API's documents are served")
async def documents(world: World) -> Found:
    """OpenAPI and AsyncAPI."""
    openapi = (await world.call("GET", "/docs/openapi.json")).body
    asyncapi = (await world.call("GET", "/docs/asyncapi.json")).body
    expect(openapi and openapi.get("openapi"), "no OpenAPI document")
    expect(asyncapi and asyncapi.get("asyncapi"), "no AsyncAPI document")
    messages = sum(len(channel["messages"]) for channel in asyncapi["channels"].values())
    return f"{sum(map(len, openapi['paths'].values()))} calls, {messages} frames"
