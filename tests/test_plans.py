"""What each statement costs must not grow with the tables: its plan finds rows by an index."""

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

import storage
from storage.database import Statement, session_dsn

# One row, for ever.
TINY = {"bounty_event_head"}


def all_statements() -> dict[str, Statement]:
    """Return every statement of the storage layer by its name."""
    found: dict[str, Statement] = {}
    for module in pkgutil.iter_modules(storage.__path__, "storage."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Statement):
                assert found.setdefault(value.name, value) is value, f"two statements are named {value.name}"
    return found


STATEMENTS = all_statements()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's nodes."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_all_statements_are_looked_at() -> None:
    """The search above finds them: the ones that matter most are among them."""
    assert {"insert_messages", "move_cursors", "conversation_list", "messages_page", "messages_undelivered"} <= set(
        STATEMENTS
    )


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_reads_a_table_whole(dsn: str, name: str) -> None:
    """Where a table is read without an index, the planner had none to use: our sessions forbid it otherwise."""
    statement = STATEMENTS[name]
    nulls = statement.execute.replace("%s", "NULL")
    with closing(psycopg2.connect(session_dsn(dsn, 5))) as connection, connection.cursor() as cursor:
        cursor.execute(statement.prepare)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {nulls}")
        row = cursor.fetchone()
    assert row is not None
    scans = {node["Relation Name"] for node in nodes(row[0][0]["Plan"]) if node["Node Type"] == "Seq Scan"}
    assert scans <= TINY


@pytest.mark.parametrize("name", ["notifications_page_after", "unread_notifications_page_after"])
def test_a_page_far_back_is_found_by_the_index(dsn: str, name: str) -> None:
    """Where it begins is part of the index's condition, and not looked for from the newest on."""
    statement = STATEMENTS[name]
    with closing(psycopg2.connect(session_dsn(dsn, 5))) as connection, connection.cursor() as cursor:
        cursor.execute(statement.prepare)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement.execute.replace('%s', 'NULL')}")
        row = cursor.fetchone()
    assert row is not None
    assert any("created_at" in node.get("Index Cond", "") for node in nodes(row[0][0]["Plan"]))
