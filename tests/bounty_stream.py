"""What the tests of the public stream share: bounties changed with SQL, and what a subscriber saw of it."""

import re
from typing import Any

from tests.harness import Client, Server, until

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# The claims of a service_role token; its user is None.
SERVICE: dict[str, Any] = {"role": "service_role", "aud": None}


def new_bounty(server: Server, status: str = "open") -> str:
    """Insert a bounty with SQL, and return its id."""
    return str(server.sql("INSERT INTO bounties (title, status) VALUES ('x', %s) RETURNING id", status)[0][0])


def new_bounties(server: Server, count: int) -> None:
    """Insert bounties in one transaction: an event each."""
    server.sql("INSERT INTO bounties (title) SELECT 'x' FROM generate_series(1, %s)", count)


def set_status(server: Server, bounty: str, *statuses: str) -> None:
    """Change a bounty with SQL, one transaction a status."""
    for status in statuses:
        server.sql("UPDATE bounties SET status = %s WHERE id = %s", status, bounty)


async def old_bounties(server: Server, count: int) -> list[str]:
    """Return new bounties, open, of which all subscribers have been told."""
    bounties = [new_bounty(server) for _ in range(count)]
    await caught_up(server)
    return bounties


async def caught_up(server: Server) -> int:
    """Wait until the server has told all that is in the log; return the newest eventId."""
    logged: int = server.sql("SELECT count(*) FROM bounty_events")[0][0]
    await until(lambda: server.app.bounty_events.position == logged)
    return logged


async def statuses(client: Client, count: int) -> list[tuple[str, str]]:
    """Return the bounty and status of the next events."""
    events = [await client.get("bounty.status") for _ in range(count)]
    return [(event["id"], event["status"]) for event in events]


async def ids(client: Client, count: int) -> list[int]:
    """Return the eventId of the next events."""
    return [(await client.get("bounty.status"))["eventId"] for _ in range(count)]
