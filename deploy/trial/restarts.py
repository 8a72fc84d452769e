"""Ten restarts of the real unit while people chat: ``python -m deploy.trial.restarts``, inside the trial's Debian."""

import asyncio
import subprocess
import uuid
from contextlib import closing
from pathlib import Path

import psycopg2

from tests.talkers import Caller, Talker, until_they_talk

RESTARTS, PAIRS = 10, 6
DATABASE = Path("/etc/bountyexpo-realtime/secrets/database-url").read_text().strip()


async def main() -> None:
    """Chat, restart, check, say what was found."""
    talkers, callers = _people()
    tasks = [asyncio.ensure_future(one.talk()) for one in talkers]
    tasks += [asyncio.ensure_future(one.call()) for one in callers]
    for number in range(RESTARTS):
        await until_they_talk(talkers, returns=number)
        await asyncio.to_thread(subprocess.run, ["systemctl", "restart", "bountyexpo-realtime.service"], check=True)
    await until_they_talk(talkers, returns=RESTARTS)
    for one in (*talkers, *callers):
        one.leaving = True
    await asyncio.gather(*tasks)
    for one in talkers:
        await one.catch_up()
    _check(talkers, callers)


def _people() -> tuple[list[Talker], list[Caller]]:
    talkers, callers = [], []
    with closing(psycopg2.connect(DATABASE)) as connection, connection, connection.cursor() as cursor:
        for _ in range(PAIRS):
            chat, *people = (str(uuid.uuid4()) for _ in range(4))
            cursor.execute("INSERT INTO conversations (id) VALUES (%s)", (chat,))
            for one in people:
                cursor.execute("INSERT INTO profiles (id, username) VALUES (%s, %s)", (one, one))
                cursor.execute(
                    "INSERT INTO conversation_participants (conversation_id, user_id) VALUES (%s, %s)", (chat, one)
                )
            talkers += [Talker("127.0.0.1:3001", one, chat) for one in people[:2]]
            callers.append(Caller("127.0.0.1:3001", people[2], chat))
    return talkers, callers


def _check(talkers: list[Talker], callers: list[Caller]) -> None:
    failures = [failure for one in (*talkers, *callers) for failure in one.failures]
    late_s = [late for one in talkers for late in one.late_s]
    with closing(psycopg2.connect(DATABASE)) as connection, connection.cursor() as cursor:
        for one in talkers:
            cursor.execute(
                "SELECT seq, client_message_id FROM messages WHERE conversation_id = %s", (one.conversation_id,)
            )
            stored = cursor.fetchall()
            keys = [key for _, key in stored if key is not None]
            assert sorted(seq for seq, _ in stored) == list(range(1, len(stored) + 1))
            assert len(keys) == len(set(keys)) and set(one.acked) <= set(keys), "lost or stored twice"
            assert len(one.heard) == len(set(one.heard)), "heard twice"
            assert set(one.heard) | set(one.acked.values()) == {seq for seq, _ in stored}, "not heard"
    said, sent = sum(len(one.acked) for one in talkers), sum(one.sent for one in callers)
    print(
        f"{RESTARTS} restarts: {said} messages by socket, {sent} by REST, {len(failures)} refused or failed, 0 lost or"
    )
    print(f"repeated; {len(late_s)} returns, the latest {max(late_s):.2f} s after its reconnectAfterMs")
    assert failures == [] and max(late_s) < 1, failures[:5]


if __name__ == "__main__":
    asyncio.run(main())
