"""A server from its start to its end: signals, what systemd is told, the reload, the draining."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

import logs
from app import App
from banner import banner
from protocol.codes import AppError
from settings import Settings, SettingsError
from storage.embedded import EmbeddedPostgres
from systemd import Notifier
from version import VERSION

log = structlog.get_logger()

# systemd hears how things are this often, or three times within the watchdog's time.
_TELL_EVERY_S = 5.0
# While draining, each time for as long as a stalled loop may take to be noticed.
_PATIENCE_S, _PATIENCE_EVERY_S = 10.0, 1.0
# The next start is expected to take as long as this one did. The rest is for the end of this one, and for a machine
# that is busier by then: with a load of ten on two cores starts differed threefold. One that had to wait for its
# database says nothing of the next.
_RESTART_FACTOR, _MOST_AWAY_S = 3.0, 5.0


class Refused(Exception):
    """The command can't do its work; ``str(error)`` is a sentence for whoever started it."""


async def serve(
    settings: Settings,
    dsn: str,
    *,
    embedded: EmbeddedPostgres | None,
    passed: list[socket.socket],
    notifier: Notifier,
    load: Callable[[], Settings],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once.

    :param passed: listening sockets from systemd, none to bind HOST and PORT.
    :param load: reads the settings again, for SIGHUP.
    """
    app = App(settings, dsn)
    port = await _start(app, passed)
    keeper = asyncio.create_task(embedded.keep_running()) if embedded else None
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    _settle_garbage()
    said = banner(VERSION, settings, passed[0].getsockname()[0] if passed else settings.host, port)
    # Where logs are for machines, one line.
    print(said if log_format(settings) == "console" else said.partition("\n")[0], flush=True)
    started_s = _age_s()
    log.info("server.ready", seconds=round(started_s, 2), passed_sockets=len(passed))
    notifier.ready(await app.summary())
    telling = asyncio.create_task(_keep_telling(app, notifier))
    while await signals.get() == signal.SIGHUP and not os.isatty(0):  # a terminal that goes away ends its server
        notifier.reloading()
        _reload(app, load)
        notifier.ready(await app.summary())
    await _end(app, notifier, signals, away_s=min(_MOST_AWAY_S, _RESTART_FACTOR * started_s))
    for task in (telling, keeper):
        if task:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    await app.stop()


async def _start(app: App, passed: list[socket.socket]) -> int:
    try:
        await app.start()
        return app.listen(passed)
    except AppError as error:
        await app.stop()
        raise Refused("The database can't be reached.") from error
    except OSError as error:
        await app.stop()
        raise Refused(
            f"Port {app.settings.port} on {app.settings.host} can't be had: {error.strerror}."
            " Is another server running? Set PORT to use another one."
        ) from error


async def _keep_telling(app: App, notifier: Notifier) -> None:
    """Feed the watchdog from the loop itself: one that stalls feeds nobody, and is started again."""
    pause_s = min(_TELL_EVERY_S, notifier.watchdog_s / 3) if notifier.watchdog_s else _TELL_EVERY_S
    while notifier.listening:
        notifier.alive(await app.summary())
        await asyncio.sleep(pause_s)


def _reload(app: App, load: Callable[[], Settings]) -> None:
    """Read the settings again and go on with them; with those from before where they are wrong."""
    try:
        wanted = load()
    except (SettingsError, Refused, OSError) as error:
        log.error("settings.refused", reason=str(error))
        return
    before = app.settings
    needs_restart = app.reconfigure(wanted)
    logs.set_level(app.settings.log_level)
    changed = [name for name in app.settings.__struct_fields__ if getattr(app.settings, name) != getattr(before, name)]
    log.info("settings.reloaded", changed=changed, needs_restart=needs_restart)


async def _end(app: App, notifier: Notifier, signals: "asyncio.Queue[int]", *, away_s: float) -> None:
    notifier.stopping("Draining")
    draining = asyncio.create_task(app.drain(away_s))
    hurried = asyncio.create_task(_next_stop(signals))
    while not draining.done() and not hurried.done():
        notifier.patience(_PATIENCE_S, f"Draining, {len(app.registry.connections)} connections left")
        await asyncio.wait([draining, hurried], timeout=_PATIENCE_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    hurried.cancel()
    log.info("server.stopping")


async def _next_stop(signals: "asyncio.Queue[int]") -> None:
    while await signals.get() == signal.SIGHUP:
        pass


def _age_s() -> float:
    """Return how long this process has existed, the time included that Python took to import it (proc(5), field 22)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _settle_garbage() -> None:
    """Keep what lives as long as the process out of the collector's way, and have it look less often.

    Almost nothing here is freed by it: with thousands of sockets opening, looking took a third of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def log_format(settings: Settings) -> str:
    """Return ``console`` or ``json``."""
    if settings.log_format != "auto":
        return settings.log_format
    return "json" if settings.production else "console"
