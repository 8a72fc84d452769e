"""``server.py check`` finds what is wrong, says what to do, and shows no secret; the banner says where to go."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psycopg2
import pytest

from banner import banner, what_is_off
from doctor import Item, examine, is_sound, report
from settings import Settings
from storage.diagnosis import diagnose
from storage.migrate import Unreachable
from tests.harness import SECRET

ENOUGH = 10**6


def found(items: list[Item], name: str) -> Item:
    """Return the one item of this name."""
    [item] = [item for item in items if item.name == name]
    return item


def test_a_sound_configuration(dsn: str) -> None:
    """All is well, with the database's version and how far it is."""
    items = examine(Settings(port=0, database_url=dsn, supabase_jwt_secret=SECRET), ENOUGH)
    assert is_sound(items) and {item.state for item in items} == {"ok"}
    assert "PostgreSQL 1" in found(items, "database").found and "ms away" in found(items, "database").found
    assert found(items, "schema").found == "up to date"
    assert found(items, "notifications").found == "NOTIFY arrives"
    text = report(items, colored=False)
    assert text.splitlines()[-1] == "ready" and "→" not in text and "\x1b" not in text and SECRET not in text


def test_without_anything(tmp_path: Path) -> None:
    """The default is sound too: it brings its own."""
    items = examine(Settings(port=0, data_dir=str(tmp_path / "not" / "yet")), ENOUGH)
    assert is_sound(items) and "embedded" in found(items, "database").found
    assert not (tmp_path / "not").exists(), "looking changes nothing"


def test_a_database_that_is_away() -> None:
    """A problem, with libpq's reason in one line and no password."""
    url = "postgresql://me:hunter2@127.0.0.1:9/db"
    items = examine(Settings(port=0, database_url=url, supabase_jwt_secret=SECRET), ENOUGH)
    item = found(items, "database")
    assert (item.state, is_sound(items)) == ("problem", False)
    assert "refused" in item.found and "\n" not in item.found and "DATABASE_URL" in item.advice
    text = report(items, colored=True)
    assert "hunter2" not in text and "\x1b[31m" in text and text.splitlines()[-1] == "not ready"


def test_a_database_of_a_newer_version(dsn: str) -> None:
    """What an older release finds after a roll-back: it works, and is told of it."""
    name = "9999-of-tomorrow"
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) VALUES (%s, %s, now())",
            ("of tomorrow", name),
        )
    items = examine(Settings(port=0, database_url=dsn, supabase_jwt_secret=SECRET), ENOUGH)
    assert found(items, "schema").state == "warning" and is_sound(items)
    assert name in found(items, "schema").found


def test_a_pool_that_is_too_large(dsn: str) -> None:
    """More connections than PostgreSQL has free."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        most = int((cursor.fetchone() or (100,))[0])
    wanted = Settings(port=0, database_url=dsn, supabase_jwt_secret=SECRET, database_pool_size=most)
    assert found(examine(wanted, ENOUGH), "pool").state == "warning"


def test_what_is_open_too_wide(dsn: str) -> None:
    """Development for other machines; any page in production; a limit that is off in production."""
    items = examine(Settings(port=0, host="0.0.0.0", database_url=dsn), ENOUGH)
    assert found(items, "environment").state == "warning" and is_sound(items)
    production = Settings(
        port=0,
        environment="production",
        database_url=dsn,
        supabase_jwt_secret=SECRET,
        allowed_origins=("*",),
        message_rate=0,
        expo_access_token="expo",
    )
    items = examine(production, ENOUGH)
    assert found(items, "origins").state == "warning"
    assert found(items, "off").state == "warning" and "MESSAGE_RATE" in found(items, "off").found


def test_a_port_and_descriptors_that_cant_be_had(dsn: str) -> None:
    """Both are warnings that say what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        items = examine(Settings(port=taken.getsockname()[1], database_url=dsn, max_connections=5000), 4000)
    assert found(items, "address").state == "warning" and "PORT" in found(items, "address").advice
    assert "4000" in found(items, "connections").found and "ulimit" in found(items, "connections").advice


class _Keys(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"keys": []}')

    def log_message(self, *_args: object) -> None:
        """Quiet."""


@pytest.fixture
def key_server() -> Iterator[str]:
    """Something that answers where keys are looked for."""
    server = HTTPServer(("127.0.0.1", 0), _Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_published_keys(dsn: str, key_server: str) -> None:
    """Fetched, or it is said that they can't be."""
    there = examine(Settings(port=0, database_url=dsn, supabase_url=key_server), ENOUGH)
    assert found(there, "token keys").state == "ok"
    away = examine(Settings(port=0, database_url=dsn, supabase_url="http://127.0.0.1:9"), ENOUGH)
    assert found(away, "token keys").state == "warning" and "SUPABASE_URL" in found(away, "token keys").advice


def test_diagnosing_nothing() -> None:
    """Raises what the command knows."""
    with pytest.raises(Unreachable):
        diagnose("postgresql://127.0.0.1:9/db")


def test_the_banner(dsn: str) -> None:
    """The address at the end of its first line; where to go; what is off; no password."""
    lines = banner("1.0.0", Settings(), "127.0.0.1", 4711).splitlines()
    assert lines[0].endswith("listening on http://127.0.0.1:4711")
    assert any(line.split()[:1] == ["database"] and "embedded" in line for line in lines)
    assert any("server.py token alice" in line for line in lines)
    secret = Settings(environment="production", database_url="postgresql://me:hunter2@db.example:5432/live")
    text = banner("1.0.0", secret, "::1", 4711)
    assert "live at db.example" in text and "hunter2" not in text and "http://[::1]:4711" in text
    assert "token alice" not in text
    assert not any("limits" in reason for reason in what_is_off(Settings()))
    assert any("TYPING_RATE" in reason for reason in what_is_off(Settings(typing_rate=0)))
    assert "pushes: EXPO_ACCESS_TOKEN is not set" in what_is_off(Settings())
    assert "pushes: PUSH is off" in what_is_off(Settings(expo_access_token="expo", push="off"))
    assert what_is_off(Settings(expo_access_token="expo")) == []
