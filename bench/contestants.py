"""Our server and its peers: how each is started and what of it is measured."""

import sys
from dataclasses import dataclass, field
from typing import Any

from bench.paths import DATA, NODE, PEERS, VENV
from bench.world import SECRET

# The scenarios that a server of chat and events takes part in, and one that only broadcasts.
CHAT = ("connects", "fan_out", "chat", "group", "mixed", "memory")
FAN_OUT = ("fan_out",)


@dataclass(frozen=True)
class Contestant:
    """One server. ``needs`` names what of the environment it can't do without."""

    name: str
    label: str
    command: list[str]
    scenarios: tuple[str, ...]
    needs: str = ""
    dialect: str = "plain"
    rest: bool = False
    publishes_over_rest: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def has_database(self) -> bool:
        """Whether it persists anything."""
        return "chat" in self.scenarios


OURS = Contestant(
    name="ours",
    label="BountyExpo Realtime",
    command=[sys.executable, "server.py"],
    scenarios=(*CHAT, "crowd", "replay"),
    rest=True,
    publishes_over_rest=True,
    environment={
        "SUPABASE_JWT_SECRET": SECRET,
        "LOG_FORMAT": "json",
        "PRESENCE_GRACE_S": "0.5",
        "MAX_CONNECTIONS": "19000",
        "MAX_CONNECTIONS_PER_IP": "19000",
        "CONNECT_RATE_PER_10S": "0",
        "MESSAGE_RATE": "0",
        "FRAME_RATE": "0",
        "REST_RATE_PER_MINUTE": "0",
    },
)

_PEER_PYTHON = str(VENV / "bin" / "python")
_NODE_PATH = {"NODE_PATH": str(NODE / "node_modules"), "NODE_ENV": "production"}

PEER_LIST = [
    Contestant(
        name="tornado",
        label="plain Tornado + momoko",
        command=[sys.executable, str(PEERS / "plain_tornado.py")],
        scenarios=CHAT,
        rest=True,
    ),
    Contestant(
        name="fastapi",
        label="FastAPI + uvicorn + asyncpg",
        command=[_PEER_PYTHON, str(PEERS / "fastapi_server.py")],
        scenarios=CHAT,
        needs="python",
        rest=True,
    ),
    Contestant(
        name="socketio",
        label="Socket.IO 4 + pg",
        command=["node", str(PEERS / "socketio_server.js")],
        scenarios=CHAT,
        needs="node",
        dialect="socketio",
        environment=_NODE_PATH,
    ),
    Contestant(
        name="websockets",
        label="websockets.broadcast",
        command=[_PEER_PYTHON, str(PEERS / "websockets_broadcast.py")],
        scenarios=FAN_OUT,
        needs="python",
    ),
    Contestant(
        name="ws",
        label="Node ws",
        command=["node", str(PEERS / "ws_broadcast.js")],
        scenarios=FAN_OUT,
        needs="node",
        environment=_NODE_PATH,
    ),
    Contestant(
        name="c",
        label="bare C loop of send()",
        command=[str(DATA / "send_loop")],
        scenarios=FAN_OUT,
        needs="c",
    ),
]


def options(scenario: str, contestant: Contestant, *, quick: bool) -> list[dict[str, Any]]:
    """Return the options of each run of a scenario. A key ``name`` tells them apart in the results."""
    seconds, warm_s = (0.7, 0.2) if quick else (1.5, 0.4)
    timed = {"seconds": seconds, "warm_s": warm_s}
    match scenario:
        case "fan_out":
            runs = [(1000, 10)] if quick else [(1000, 30), (5000, 10)]
            return [{"name": f"{count}", "subscribers": count, "events": events} for count, events in runs]
        case "chat":
            levels = (1, 64) if quick else (1, 16, 64, 256)
            runs = [{"name": f"ws {senders}", "senders": senders, **timed} for senders in levels]
            if contestant.rest:
                runs += [
                    {"name": f"rest {n}", "senders": n, "rest": True, **timed} for n in levels if n > 1 or not quick
                ]
            return runs
        case "group":
            return [{"name": "100", "people": 100, **timed}]
        case "connects":
            count = 1000 if quick else 2000
            return [{"name": f"{count}", "connections": count}]
        case "memory":
            steps = [1000] if quick else [5000, 10_000]
            return [{"name": "idle", "steps": steps}]
        case "crowd":
            crowd = {"subscribers": 9000, "pairs": 500, "rate": 1000, "every_s": 1.0, "warm_s": 2.0, "seconds": 10.0}
            return [] if quick else [{"name": "10000", **crowd}]
        case "replay":
            return [{"name": "1000", "times": 3 if quick else 10}]
        case _:
            mixed = {"subscribers": 5000, "senders": 16, "every_s": 0.5, **timed}
            return [] if quick else [{"name": "5000", **mixed, "seconds": 4.0}]
