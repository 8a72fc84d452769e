"""The limit of persisting: the server's own statement in a loop on one connection, batch after batch, nothing else.

``python -m bench.peers.group_commit DSN SECONDS`` prints {batch size: durable messages a second} as JSON.
"""

import json
import sys
import time
from contextlib import closing

import psycopg2

from bench.world import numbered
from protocol.outbound import new_id
from storage.database import array
from storage.message_writer import _INSERT as STATEMENT

_SIZES = (1, 16, 64, 256)
_TEXT = "x" * 100


def main(dsn: str, seconds: float) -> dict[int, float]:
    """Return messages a second by batch size."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")  # as the server's own connections have it
            cursor.execute(STATEMENT.prepare)
            return {size: _rate(cursor, size, seconds) for size in _SIZES}


def _rate(cursor: "psycopg2.extensions.cursor", size: int, seconds: float) -> float:
    started = time.monotonic()
    batches = 0
    while time.monotonic() < started + seconds:
        cursor.execute(
            STATEMENT.execute,
            (
                array(range(size)),
                array([new_id() for _ in range(size)]),
                array([numbered(1, n) for n in range(size)]),
                array([numbered(0, 2 * n) for n in range(size)]),
                array([new_id() for _ in range(size)]),
                array([_TEXT] * size),
                array([None] * size),
                array([None] * size),
            ),
        )
        assert len(cursor.fetchall()) == size
        batches += 1
    return batches * size / (time.monotonic() - started)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]))))
