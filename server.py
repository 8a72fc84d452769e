"""The command: ``serve`` (what it does without a word), ``migrate``, ``token``, ``psql``, ``check``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # before anything is imported that would fail with a traceback
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import structlog

import doctor
import lifecycle
import logs
import settings as configuration
from lifecycle import Refused, log_format
from listening import raise_descriptor_limit
from protocol.inbound import parse_id
from services.development import DevelopmentTokens
from settings import Settings, SettingsError
from storage import seed
from storage.embedded import EmbeddedPostgres
from storage.migrate import Busy, Unreachable, check_reachable, migrate, pending
from systemd import Notifier, passed_sockets

log = structlog.get_logger()

_RETRY_S = 0.5
# One attempt to reach the database takes up to 5 s.
_PATIENCE_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="server.py", description="BountyExpo Realtime")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the server (the default)")
    commands.add_parser("migrate", help="bring the database's schema up to date")
    commands.add_parser("check", help="say what the configuration means and what can't be reached")
    commands.add_parser(
        "psql", help="open the embedded database with its own psql; takes what psql takes", add_help=False
    )
    token = commands.add_parser("token", help="print a development token, valid for a day")
    token.add_argument("user", help="a handle (alice, bob) or a user's UUID")
    token.add_argument("--admin", action="store_true", help="of an administrator, for the dashboard")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "psql":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        settings = configuration.load(os.environ)
        logs.configure(log_format(settings), settings.log_level)
        if options.command == "migrate":
            return _migrate(settings)
        if options.command == "check":
            return _check(settings)
        if options.command == "psql":
            return _psql(settings, rest)
        if options.command == "token":
            return _token(settings, options.user, is_admin=options.admin)
        return _serve(settings)
    except SettingsError as error:
        print(f"The configuration is wrong:\n{error}", file=sys.stderr)
    except (Refused, Busy) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _serve(settings: Settings) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # while starting: what was begun is ended
    if not os.isatty(0):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload: the settings are being read just now
    notifier = Notifier(os.environ)
    try:
        passed = passed_sockets(os.environ)
    except OSError as error:
        raise Refused(f"What systemd handed in can't be listened on: {error}.") from error
    embedded = None if settings.database_url else _embedded(settings)
    try:
        dsn = _reachable(settings, embedded, notifier)
        if settings.production:
            missing = pending(dsn)
            if missing:
                raise Refused(f"The database lacks {len(missing)} migrations. Run: server.py migrate")
        else:
            for name in migrate(dsn):
                log.info("migration.applied", name=name)
        if embedded:
            seed.seed(dsn)
        asyncio.run(
            lifecycle.serve(
                _complete(settings), dsn, embedded=embedded, passed=passed, notifier=notifier, load=_reloaded
            )
        )
        return 0
    finally:
        if embedded:
            embedded.stop()


def _migrate(settings: Settings) -> int:
    embedded = None if settings.database_url else _embedded(settings)
    try:
        applied = migrate(_reachable(settings, embedded))
    finally:
        if embedded:
            embedded.stop()
    print(f"Applied: {', '.join(applied)}" if applied else "Nothing to do: the schema is up to date.")
    return 0


def _check(settings: Settings) -> int:
    """Print what is configured, what is wrong with it and what to do; 0 if the server would start."""
    items = doctor.examine(settings, raise_descriptor_limit())
    print(doctor.report(items, colored=doctor.wants_color(dict(os.environ))))
    return 0 if doctor.is_sound(items) else 1


def _token(settings: Settings, user: str, *, is_admin: bool) -> int:
    if settings.production:
        raise Refused("server.py token is a development command; ENVIRONMENT is production.")
    settings = _with_key(settings)
    user_id = seed.HANDLES.get(user)
    if user_id is None:
        try:
            user_id = parse_id(user)
        except ValueError:
            user_id = _find_user(settings, user)
    print(DevelopmentTokens(settings.supabase_jwt_secret, settings.issuer).make(user_id, is_admin=is_admin))
    return 0


def _psql(settings: Settings, arguments: list[str]) -> int:
    if settings.database_url:
        raise Refused("server.py psql is for the embedded database; DATABASE_URL names another one.")
    embedded = _embedded(settings)
    try:
        return subprocess.run(
            [embedded.psql, *arguments], env={**os.environ, **embedded.environment}, check=False
        ).returncode
    finally:
        embedded.stop()


def _find_user(settings: Settings, handle: str) -> str:
    embedded = None if settings.database_url else _embedded(settings)
    try:
        user_id = seed.user_id_of(_reachable(settings, embedded), handle)
    finally:
        if embedded:
            embedded.stop()
    if user_id is None:
        raise Refused(f"Nobody has the handle {handle!r}. Give alice, bob, another handle or a UUID.")
    return user_id


def _embedded(settings: Settings) -> EmbeddedPostgres:
    directory = _data_dir(settings)
    try:
        return EmbeddedPostgres(directory / "postgres")
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        raise Refused(f"The embedded PostgreSQL in {directory} does not start: {error}") from error


def _data_dir(settings: Settings) -> Path:
    directory = Path(settings.data_dir).resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refused(f"DATA_DIR {directory} can't be written: {error.strerror}.") from error
    return directory


def _reachable(settings: Settings, embedded: EmbeddedPostgres | None, notifier: Notifier | None = None) -> str:
    """Return the database's address once it answers; wait for it, saying so, for STARTUP_TIMEOUT_S."""
    dsn = embedded.dsn() if embedded else settings.database_url or ""
    give_up = time.monotonic() + settings.startup_timeout_s
    said = False
    while True:
        try:
            check_reachable(dsn)
            return dsn
        except Unreachable as error:
            if time.monotonic() >= give_up:
                raise Refused(f"PostgreSQL can't be reached: {error}") from error
            if not said:
                log.warning("database.waiting", seconds=settings.startup_timeout_s, reason=str(error))
                said = True
            if notifier:
                notifier.patience(_PATIENCE_S, "Waiting for PostgreSQL")
            time.sleep(_RETRY_S)


def _complete(settings: Settings) -> Settings:
    """Return what the server runs with: a key where none is configured, and no more than the system allows."""
    return _within_descriptors(_with_key(settings))


def _reloaded() -> Settings:
    return _complete(configuration.load(os.environ))


def _with_key(settings: Settings) -> Settings:
    """Return the settings with a key to check tokens with: without one configured, a development secret is made."""
    if settings.supabase_jwt_secret or settings.supabase_url:
        return settings
    path = _data_dir(settings) / "jwt-secret"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
    return msgspec.structs.replace(settings, supabase_jwt_secret=path.read_text())


def _within_descriptors(settings: Settings) -> Settings:
    """Return the settings with no more connections than the system allows open files."""
    possible = raise_descriptor_limit()
    if possible >= settings.max_connections:
        return settings
    log.warning("limits.descriptors", max_connections=possible, wanted=settings.max_connections)
    return msgspec.structs.replace(settings, max_connections=possible)


if __name__ == "__main__":
    sys.exit(main())
