"""The server as a process of its own, and a real Chromium to look at its pages with.

For a test that is no coroutine: ``chromium``. Its loop runs for as long as it is open, and no other can run in its
thread, so a module that uses it has no coroutine tests. For one that is: ``browser_page``.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from playwright.async_api import Page, Route, async_playwright
from playwright.sync_api import Browser, expect, sync_playwright

from storage import seed
from tests.harness import SECRET, free_port

ROOT = Path(__file__).parent.parent
PATIENCE_S = 25.0
# How long what has to come may take to come: far longer than it does, so that only a fault is a failure.
_EXPECT_MS = 15_000
# Headless, also as root; it has no business with anything but the server under test.
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


class LiveServer:
    """server.py on a port of its own, which it keeps over restarts; alice, bob, their chat and bounty are there."""

    def __init__(self, dsn: str, **settings: object) -> None:
        self.dsn = dsn
        seed.seed(dsn)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        given = {
            "port": self.port, "database_url": dsn, "supabase_jwt_secret": SECRET, "message_rate": 0,
            "frame_rate": 0, "typing_rate": 0, "rest_rate_per_minute": 0, "connect_rate_per_10s": 0,
            "presence_grace_s": 0.3, "log_level": "warning", **settings,
        }  # fmt: skip
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._environment = {**kept, **{name.upper(): str(value) for name, value in given.items()}}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "LiveServer":
        """Start and wait until it listens."""
        process = self.process = subprocess.Popen(
            [sys.executable, "server.py"], cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        hurry = threading.Timer(PATIENCE_S, process.kill)
        hurry.start()
        assert "listening" in process.stdout.readline()
        hurry.cancel()
        return self

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        assert self.process is not None and self.process.stdout is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def kill(self) -> None:
        """As ``kill -9``."""
        self.end(signal.SIGKILL)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run SQL past the server."""
        with closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def live(dsn: str) -> Iterator[LiveServer]:
    """A server that runs."""
    server = LiveServer(dsn).start()
    yield server
    server.kill()


def find_chromium() -> str | None:
    """Return the system's Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this system (apt install chromium): no page is tested"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; skips, and says so, where the system has none."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this system (apt install chromium): what is shown in a browser is not tested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        expect.set_options(timeout=_EXPECT_MS)
        yield browser
        browser.close()


@asynccontextmanager
async def browser_page(**context: Any) -> AsyncIterator[Page]:
    """Give an empty page of a fresh browser; fail if a script failed in it or something was asked for from elsewhere.

    ``context`` is Playwright's: ``viewport``, ``color_scheme``, …
    """
    faults: list[str] = []

    async def guard(route: Route) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "data:")):
            await route.continue_()
        else:
            faults.append(f"asked for {route.request.url}")
            await route.abort()

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=_ARGUMENTS)
        try:
            page = await (await browser.new_context(**context)).new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            await page.route("**/*", guard)
            yield page
        finally:
            await browser.close()
    assert faults == []
