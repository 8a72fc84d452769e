"""``server.py check``: looks at the configuration as a doctor would, and says what to do about what is wrong."""

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct
from tornado.httpclient import HTTPClient, HTTPError

from banner import what_is_off
from settings import Settings
from storage.diagnosis import MIN_VERSION, Diagnosis, diagnose
from storage.migrate import Unreachable, compare

State = Literal["ok", "warning", "problem"]

_MARKS = {"ok": "✓", "warning": "!", "problem": "✗"}
_COLORS = {"ok": "32", "warning": "33", "problem": "31"}
_FETCH_S = 3.0
_LITTLE_DISK_BYTES = 2**30
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Item(Struct, frozen=True):
    """One thing that was looked at: how it is, and (``advice``) what to do if it is not well."""

    state: State
    name: str
    found: str
    advice: str = ""


def examine(settings: Settings, most_connections: int) -> list[Item]:
    """Look at everything. ``most_connections`` is what the system's limit of open files allows."""
    return [
        _environment(settings),
        _port(settings),
        *(_database(settings) if settings.database_url else _embedded(settings)),
        *_keys(settings),
        _origins(settings),
        _proxies(settings),
        _connections(settings, most_connections),
        *(Item("warning" if settings.production else "ok", "off", reason) for reason in what_is_off(settings)),
    ]


def report(items: list[Item], *, colored: bool) -> str:
    """Return what to print: an item a line, its advice below it, a verdict at the end."""
    lines = []
    for item in items:
        mark = f"{_MARKS[item.state]} {item.state:<8}"
        lines.append(f"{_paint(item.state, mark) if colored else mark} {item.name:<14}{item.found}")
        if item.advice:
            lines.append(f"{'':<26}→ {item.advice}")
    problems, warnings = (sum(item.state == state for item in items) for state in ("problem", "warning"))
    counted = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((problems, "problem"), (warnings, "warning"))
        if count
    ]
    lines += ["", ", ".join(counted)] if counted else [""]
    return "\n".join([*lines, "not ready" if problems else "ready"])


def is_sound(items: list[Item]) -> bool:
    """Whether the server would start and work."""
    return not any(item.state == "problem" for item in items)


def _environment(settings: Settings) -> Item:
    if not settings.production and settings.host not in _LOOPBACK:
        found = f"development, and open to other machines ({settings.host})"
        return Item("warning", "environment", found, "ENVIRONMENT=production, or HOST=127.0.0.1")
    return Item("ok", "environment", settings.environment)


def _port(settings: Settings) -> Item:
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        return Item("warning", "address", f"{where} can't be had: {error.strerror}", "stop who has it, or set PORT")
    return Item("ok", "address", f"{where} is free")


def _database(settings: Settings) -> Iterator[Item]:
    assert settings.database_url is not None
    try:
        found = diagnose(settings.database_url)
        missing, unknown = compare(settings.database_url)
    except Unreachable as error:
        reason = " ".join(str(error).split())
        yield Item("problem", "database", f"can't be reached: {reason}", "start it, or correct DATABASE_URL")
        return
    yield _version(found)
    if missing:
        lacks = f"lacks {', '.join(missing)}"
        if settings.production:
            yield Item("problem", "schema", lacks, "server.py migrate")
        else:
            yield Item("ok", "schema", f"{lacks}; the start adds that")
    elif unknown:
        said = f"has {', '.join(unknown)} of a newer version; this one goes on beside it"
        yield Item("warning", "schema", said, "that version again, unless you have just rolled back")
    else:
        yield Item("ok", "schema", "up to date")
    if found.hears:
        yield Item("ok", "notifications", "NOTIFY arrives")
    else:
        said = "NOTIFY does not arrive: events will be up to 2 s late"
        yield Item("warning", "notifications", said, "a direct address in DATABASE_URL, not a transaction pooler's")
    # One more listens, and one is kept for fencing off what was given up.
    wanted = settings.database_pool_size + 2
    if found.free_connections < wanted:
        said = f"{found.free_connections} are free, {wanted} are needed"
        yield Item("warning", "pool", said, "a larger max_connections in PostgreSQL, or a smaller DATABASE_POOL_SIZE")


def _version(found: Diagnosis) -> Item:
    said = f"PostgreSQL {found.version}, {found.latency_ms:.1f} ms away"
    if found.major < MIN_VERSION:
        return Item("problem", "database", said, f"PostgreSQL {MIN_VERSION} or newer is needed")
    return Item("ok", "database", said)


def _embedded(settings: Settings) -> Iterator[Item]:
    directory = Path(settings.data_dir).resolve()
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < _LITTLE_DISK_BYTES:
        yield Item("warning", "database", f"embedded, {free // 2**20} MB free in {directory}", "make room")
    else:
        yield Item("ok", "database", f"embedded PostgreSQL in {directory}")


def _keys(settings: Settings) -> Iterator[Item]:
    if settings.supabase_jwt_secret:
        yield Item("ok", "token keys", "a shared secret (HS256)")
    if settings.jwks_url:
        yield _published_keys(settings.jwks_url)
    if not settings.supabase_jwt_secret and not settings.jwks_url:
        yield Item("ok", "token keys", "a development secret in DATA_DIR")


def _published_keys(url: str) -> Item:
    client = HTTPClient()
    try:
        client.fetch(url, connect_timeout=_FETCH_S, request_timeout=_FETCH_S)
    except (HTTPError, OSError, ValueError) as error:
        return Item("warning", "token keys", f"{url} can't be fetched: {error}", "correct SUPABASE_URL, or the network")
    finally:
        client.close()
    return Item("ok", "token keys", f"those at {url}")


def _origins(settings: Settings) -> Item:
    origins = ["the same", *settings.allowed_origins, *([] if settings.production else ["any on loopback"])]
    if settings.production and "*" in settings.allowed_origins:
        return Item("warning", "origins", "any page may connect", "name the app's own in ALLOWED_ORIGINS")
    return Item("ok", "origins", ", ".join(origins))


def _proxies(settings: Settings) -> Item:
    return Item("ok", "proxies", ", ".join(settings.trusted_proxies) or "none: X-Forwarded-For is not believed")


def _connections(settings: Settings, possible: int) -> Item:
    if possible < settings.max_connections:
        said = f"at most {possible}: the system allows no more open files"
        return Item("warning", "connections", said, f"ulimit -n {settings.max_connections + 200}")
    return Item("ok", "connections", f"at most {settings.max_connections}")


def _paint(state: State, text: str) -> str:
    return f"\x1b[{_COLORS[state]}m{text}\x1b[0m"


def wants_color(environment: dict[str, str]) -> bool:
    """Whether the terminal shows colors, and nobody asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not environment.get("NO_COLOR")
