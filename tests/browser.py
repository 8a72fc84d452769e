"""A real browser: the system's Chromium, driven by Playwright. Nothing in it may load anything from elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, async_playwright

CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser test: there is no {CHROMIUM}")


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
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            page = await (await browser.new_context(**context)).new_page()
            page.on("pageerror", lambda error: faults.append(str(error)))
            await page.route("**/*", guard)
            yield page
        finally:
            await browser.close()
    assert faults == []
