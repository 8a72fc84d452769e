"""The dashboard: who gets its data, that the numbers are true, and the page in a real browser."""

import asyncio
import math
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect
from tornado.httpclient import HTTPRequest, HTTPResponse

from services import analytics, bounty_events
from storage.analytics import Analytics, Minute
from tests.browser import browser_page, needs_chromium
from tests.harness import Client, Server, free_port, token, until
from tests.raw import exchange

Start = Callable[..., Awaitable[Server]]

STATIC = Path(__file__).parent.parent / "static" / "dashboard"
LIBRARY = "static/vendor/uplot.iife.min.js"
ANY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-")
PAINT = "performance.getEntriesByType('paint').find((entry) => entry.name === 'first-contentful-paint').startTime"


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the history read anew each time, and written only when the test says so."""

    async def wait(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(analytics, "_FRESH_S", 0)
    monkeypatch.setattr(analytics.Analytics, "run", wait)


def admin(**claims: Any) -> str:
    """Return an administrator's token."""
    return token(str(uuid.uuid4()), app_metadata={"role": "admin"}, **claims)


async def stream(server: Server, given: str | None = None) -> Client:
    """Open the live socket as the page does: with the token as a subprotocol."""
    return await server.socket(
        "/dashboard/stream", subprotocols=["bountyexpo.v1", f"bearer.{admin() if given is None else given}"]
    )


async def get(server: Server, path: str, **headers: str) -> HTTPResponse:
    """Return a file's answer, whatever it is."""
    request = HTTPRequest(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    return await server._http.fetch(request, raise_error=False)


async def test_an_update_a_second(server: Server) -> None:
    """The greeting has what was before; then samples whose counts are those of the registry and of what was sent."""
    alice, bob, chat = await server.pair()
    one, other = await server.messages(alice), await server.messages(bob)
    await server.events()
    client = await stream(server)
    hello = await client.get("dashboard.hello")
    assert (hello["version"], hello["environment"]) == ("1.0.0", "development")
    first = await client.get("dashboard.update")
    for number in range(3):
        await one.say(chat, f"{number}")
        await other.get("message.new")
    samples = [first["sample"]]
    while sum(each["messages"] for each in samples[:-1]) < 3 or len(samples) < 4:
        last = await client.get("dashboard.update")
        samples.append(last["sample"])
    assert 0.5 < (samples[-1]["at"] - samples[0]["at"]) / 1000 / (len(samples) - 1) < 2
    assert sum(each["messages"] for each in samples) == sum(each["deliveries"] for each in samples) == 3
    assert first["sample"]["latencyP50"] is None
    sample = last["sample"]
    assert 0 < sample["latencyP50"] <= sample["latencyP95"] <= sample["latencyP99"] < 5000
    stats = (await server.rest("GET", "/messages/stats")).body
    assert (sample["messagingConnections"], sample["rooms"], sample["peopleOnline"]) == (
        stats["totalClients"], stats["totalRooms"], stats["onlineUsers"],
    ) == (2, 1, 2)  # fmt: skip
    assert (sample["connections"], sample["eventConnections"]) == (4, 1)
    inside = last["inside"]
    assert inside["parts"]["database"]["status"] == "up"
    assert 0 < inside["commitP50Ms"] <= inside["commitP99Ms"]
    assert (inside["batchMean"], inside["poolSize"]) == (1, 4)
    late = await stream(server)
    assert sum((await late.get("dashboard.hello"))["samples"]["messages"]) == 3
    assert not ANY_ID.search(str([frame for frame in client.seen if frame["type"] == "dashboard.update"]))


async def test_errors_and_closes_by_code(server: Server) -> None:
    """What was told, and how sockets ended, within the last minutes."""
    alice = await server.person()
    bad = await server.socket("/messages/subscribe", token="nonsense")
    await bad.closed()
    device = await server.messages(alice)
    await device.wrong("nonsense")
    await device.error("UNKNOWN_TYPE")
    await device.close()
    await until(lambda: server.app.context.traffic.closed.total() == 2)
    client = await stream(server)
    update = await client.get("dashboard.update")
    assert update["errors"] == {"AUTH_FAILED": 1, "UNKNOWN_TYPE": 1}
    assert update["closes"] == {"4401": 1, "1005": 1}


async def test_a_dashboard_is_no_client(server: Server) -> None:
    """It is counted as a connection, and as nobody's client of events or messages."""
    await (await stream(server)).get("dashboard.hello")
    events = (await server.rest("GET", "/events/stats")).body
    assert events["events"]["wsClientCount"] == 0
    assert (events["messaging"]["totalClients"], events["messaging"]["onlineUsers"]) == (0, 0)
    assert len(server.app.registry.connections) == 1


async def test_the_stream_is_for_administrators_only(server: Server) -> None:
    """Whoever is none is told why, gets no number, and is closed with 4401; so is one whose token expires."""
    for given, code in (
        (token(str(uuid.uuid4())), "FORBIDDEN"),
        (token(str(uuid.uuid4()), user_metadata={"role": "admin"}), "FORBIDDEN"),
        ("nonsense", "AUTH_FAILED"),
        ("", "AUTH_REQUIRED"),
    ):
        client = await stream(server, given)
        await client.error(code)
        assert await client.closed() == 4401
        assert {frame["type"] for frame in client.seen} == {"error"}
    expiring = await stream(server, admin(exp=math.ceil(time.time() + 2)))  # an update comes each second
    await expiring.get("dashboard.update")
    assert await expiring.closed() == 4401


async def test_nobody_looks_nobody_pays(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a dashboard the database is not asked, and a dashboard that has gone gets nothing more."""
    monkeypatch.setattr(bounty_events, "_POLL_S", 60)  # which would ask too; from the next look on
    client = await stream(server)
    await client.get("dashboard.update")
    await client.close()
    await until(lambda: not server.app.registry.dashboards)
    asked = server.app.database.fetch_seconds.count
    kept = len(server.app.live._samples)
    await until(lambda: len(server.app.live._samples) >= kept + 3)
    assert server.app.database.fetch_seconds.count - asked <= 1, "the relay's last look"


async def test_the_page_is_an_empty_shell(server: Server) -> None:
    """Anyone gets it: nothing inline, nothing from elsewhere, a strict policy, no data."""
    answer = await get(server, "/dashboard")
    page = answer.body.decode()
    assert (answer.code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=|//[a-z]", page)
    assert not ANY_ID.search(page)


async def test_files_are_asked_for_again_and_sent_once(server: Server) -> None:
    """Each has its type and a name for what it is now; the same again is a 304."""
    for path, kind in (
        ("/static/dashboard/main.js", "text/javascript; charset=utf-8"),
        ("/static/dashboard/dashboard.css", "text/css; charset=utf-8"),
        ("/static/dashboard/icon.svg", "image/svg+xml"),
        (f"/{LIBRARY}", "text/javascript; charset=utf-8"),
    ):
        answer = await get(server, path)
        assert (answer.code, answer.headers["Content-Type"]) == (200, kind)
        assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-cache", "nosniff")
        again = await get(server, path, **{"If-None-Match": answer.headers["ETag"]})
        assert (again.code, again.body) == (304, b"")
        assert "Expires" not in (await get(server, f"{path}?v=1")).headers
    head = await server.rest("HEAD", "/dashboard")
    assert head.status == 200 and int(head.headers["Content-Length"]) > 1000


async def test_only_what_is_meant_is_served(server: Server) -> None:
    """No way out of the folder, no listing of it, nothing of the library's package but the library."""
    for path in (
        "/static/", "/static/dashboard", "/static/dashboard/", "/static/nothing.js", "/static/../settings.py",
        "/static/%2e%2e/settings.py", "/static/..%2fsettings.py", "/static//etc/passwd", "/static/%2fetc/passwd",
        "/static/dashboard/%00", "/static/vendor/__init__.py", "/static/vendor/../vendor/__init__.py", "/dashboard/",
    ):  # fmt: skip
        answer = await exchange(server.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer[9:12] in (b"400", b"403", b"404"), (path, answer)
        assert b"metrics_token" not in answer and b"root:" not in answer


def test_the_chart_library_is_uplot() -> None:
    """The package carries uPlot itself, as its makers publish it."""
    files = distribution("youplot").locate_file("youplot/vendor")
    assert b"https://github.com/leeoniya/uPlot (v1.6." in (Path(str(files)) / "uplot.iife.min.js").read_bytes()[:80]


def test_the_page_is_light() -> None:
    """Without the library, under 200 KB over the wire."""
    assert sum(file.stat().st_size for file in STATIC.iterdir()) < 200_000


# In the browser


@asynccontextmanager
async def signed_in(server: Server, **context: Any) -> AsyncIterator[Page]:
    """Give the dashboard's page, live."""
    async with browser_page(**context) as page:
        await page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        await page.get_by_label("Access token").fill(admin())
        await page.get_by_role("button", name="Open the dashboard").click()
        await expect(page.locator("#state")).to_have_text("Live")
        yield page


async def findings(page: Page) -> list[Any]:
    """Return what axe-core finds of weight, once nothing is half faded in."""
    moving = "document.getAnimations().filter((each) => each instanceof CSSTransition)"
    await page.evaluate(f"Promise.allSettled({moving}.map((each) => each.finished))")
    results = await Axe().run(page)
    return [
        (finding["id"], [node["html"] for node in finding["nodes"]])
        for finding in results.response["violations"]
        if finding["impact"] in ("serious", "critical")
    ]


@needs_chromium
async def test_the_numbers_on_the_page(server: Server) -> None:
    """Those of /messages/stats, as they change; charts are drawn; the token is in no address."""
    alice, bob, chat = await server.pair()
    one, other = await server.messages(alice), await server.messages(bob)
    asked: list[str] = []
    async with browser_page(viewport={"width": 1280, "height": 900}) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        await page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        await page.get_by_label("Access token").fill(admin())
        await page.get_by_role("button", name="Open the dashboard").click()
        await expect(page.locator("#live-peopleOnline")).to_have_text("2")
        stats = (await server.rest("GET", "/messages/stats")).body
        await expect(page.locator("#live-rooms")).to_have_text(str(stats["totalRooms"]))
        await expect(page.locator("#live-connections")).to_have_text(str(stats["totalClients"] + 1))
        connections = page.get_by_role("article", name="Connections")
        await expect(connections).to_contain_text("2 messaging · 0 events · 1 dashboard")
        for number in range(4):
            await one.say(chat, f"{number}")
        tile = page.get_by_role("article", name="Messages a second")
        await expect(tile).to_contain_text("4 in five minutes")
        await expect(page.locator("#live-latencyP95")).to_contain_text("ms")
        await expect(page.locator("#inside")).to_contain_text("0 of 4")
        await other.wrong("nonsense")
        await expect(page.locator("#errors")).to_contain_text("UNKNOWN_TYPE")
        await other.close()
        await expect(page.locator("#closes")).to_contain_text("1005")
        await expect(page.locator("#live-peopleOnline")).to_have_text("1")
        await expect(page.locator("#live-charts canvas")).to_have_count(2)
        drawn = "(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        assert await page.locator("#live-charts canvas").first.evaluate(drawn)
        # A reload stays signed in; signing out forgets.
        await page.reload()
        await expect(page.locator("#state")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await page.reload()
        await expect(page.get_by_label("Access token")).to_be_focused()
    assert any(url.startswith("ws://") and url.endswith("/dashboard/stream") for url in asked)
    assert [url for url in asked if "token" in url or "eyJ" in url] == []
    assert any(url.endswith(LIBRARY) for url in asked)


@needs_chromium
async def test_the_history_on_the_page(server: Server) -> None:
    """What was written is in totals, tables and the table of hours; each span by keyboard."""
    alice, bob, chat = await server.pair()
    one, other = await server.messages(alice), await server.messages(bob)
    for number in range(3):
        await one.say(chat, f"{number}")
    await other.send("message.read", conversationId=chat, seq=3)
    await one.get("message.read")
    await server.app.analytics.stop()  # which writes the minute
    async with signed_in(server, viewport={"width": 1280, "height": 900}) as page:
        totals = page.locator("#totals")
        await expect(totals).to_contain_text("Messages3")
        await expect(totals).to_contain_text("Active people2")
        await expect(totals).to_contain_text("Delivered100 %")
        await expect(page.locator("#busiest [data-level='5']").first).to_be_visible()
        messages = page.get_by_role("article").filter(has=page.get_by_role("heading", name="Messages an hour"))
        await messages.get_by_text("As a table").click()
        await expect(messages.locator("tbody tr")).to_have_count(24)
        await expect(messages.locator("tbody tr").last.locator("td")).to_have_text("3")
        await page.get_by_role("radio", name="Day").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("heading", name="Messages a day, UTC")).to_be_visible()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("heading", name="Messages a minute")).to_be_visible()
        await expect(totals).to_contain_text("Messages3")


async def a_month(server: Server) -> None:
    """Write a month of an app that people use by day, more in the evening and less at weekends."""
    minutes: list[Minute] = []
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    for hours in range(30 * 24):
        at = now - timedelta(hours=hours)
        by_day = max(0.0, math.sin((at.hour - 7) / 24 * 2 * math.pi)) + 0.5 * math.exp(-(((at.hour - 19) / 2) ** 2))
        use = (0.15 + by_day) * (0.6 if at.weekday() > 4 else 1) * (1 + 0.15 * math.sin(hours * 7.3))
        many = int(600 * use)
        spread = [many * part // 100 for part in (55, 14, 8, 5, 6, 4, 3, 2, 1, 1, 1, 0, 0, 0)]
        later = [many * part // 100 for part in (8, 9, 11, 10, 14, 12, 9, 6, 3, 2, 1, 0, 0, 0)]
        counts = {
            "messages": many, "recipients": many, "delivered": many * 97 // 100, "read": many * 82 // 100,
            "delivered_after": spread, "read_after": later, "conversations": int(9 * use), "connects": int(240 * use),
            "disconnects": int(236 * use), "errors": int(6 * use), "peak_connections": int(700 * use),
            "peak_people": int(520 * use),
        }  # fmt: skip
        minutes.append(Minute(minute=at, **counts))
        hour = at.replace(minute=0)
        for person in range(int(900 * use)):
            server.app.analytics._see(hour, f"{person * 13 % 2400}")
    await Analytics(server.app.database).write(str(uuid.uuid4()), minutes)
    await server.app.analytics._write()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_month_on_the_page(server: Server, scheme: str) -> None:
    """All charts are drawn and fit, on a desk and in a hand. `make screenshots` keeps pictures of it."""
    await a_month(server)
    people = [await server.messages(user) for user in (await server.pair())[:2]]
    chat = people[0].seen[0]["conversationIds"][0]
    async with signed_in(server, color_scheme=scheme, viewport={"width": 1280, "height": 860}) as page:
        for second in range(6 if "SCREENSHOTS" in os.environ else 1):  # for charts with something in them
            for number in range(3 + second % 3):
                await people[number % 2].say(chat, "hello")
            await page.wait_for_timeout(900)
        await expect(page.locator("canvas")).to_have_count(8)
        for width, height in ((1280, 860), (768, 1024), (360, 740)):
            await page.set_viewport_size({"width": width, "height": height})
            await expect(page.locator("#history-charts canvas").first).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            if width == 1280 and (folder := os.environ.get("SCREENSHOTS")):
                await page.screenshot(path=Path(folder) / f"dashboard-{scheme}.png", full_page=True)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_for_everybody(server: Server, scheme: str) -> None:
    """axe-core finds nothing serious, signed out, empty, and with numbers; nothing is wider than 360 pixels."""
    alice, _, chat = await server.pair()
    one = await server.messages(alice)
    async with browser_page(color_scheme=scheme, viewport={"width": 360, "height": 800}) as page:
        await page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        await page.get_by_label("Access token").fill("nonsense")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("Invalid or expired token")
        assert await findings(page) == []
        await page.get_by_label("Access token").fill(admin())
        await page.keyboard.press("Enter")
        await expect(page.locator("#history-state")).to_contain_text("Nothing was recorded")
        await expect(page.get_by_role("main")).to_be_focused()
        await expect(page.get_by_text("No message in the last five minutes.", exact=True)).to_be_visible()
        assert await findings(page) == []
        await one.say(chat, "hello")
        await server.app.analytics.stop()  # which writes the minute
        await one.wrong("nonsense")
        await page.reload()
        await expect(page.locator("#totals")).to_contain_text("Messages1")
        await expect(page.locator("#errors")).to_contain_text("UNKNOWN_TYPE")
        await page.get_by_text("As a table").first.click()
        assert await findings(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


@needs_chromium
async def test_what_goes_wrong_is_said(start: Start) -> None:
    """No administrator; a history that does not load, and does when asked again; a server that goes and comes back."""
    server = await start(request_timeout_s=2, port=free_port())
    async with browser_page() as page:
        await page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        await page.get_by_label("Access token").fill(token(str(uuid.uuid4())))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("This is for administrators only.")
        await page.get_by_label("Access token").fill("not a token at all")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("token")
        with server.locked("analytics_minutes"):
            await page.get_by_label("Access token").fill(admin())
            await page.keyboard.press("Enter")
            await expect(page.locator("#history-state")).to_contain_text("The history did not load.")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator("#history-state")).to_contain_text("Nothing was recorded")
        port = server.port
        await page.set_viewport_size({"width": 360, "height": 740})
        await server.app.stop()
        await expect(page.locator("#state")).to_have_text("Reconnecting…")
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await expect(page.locator("#notice")).to_contain_text("The server does not answer.")
        await start(port=port)
        await expect(page.locator("#state")).to_have_text("Live", timeout=20_000)
        await expect(page.locator("#notice")).to_be_hidden()


@needs_chromium
async def test_it_paints_before_the_library_is_there(server: Server) -> None:
    """First paint within half a second, and without the chart library; which, if it never comes, is said."""
    alice, _, chat = await server.pair()
    await (await server.messages(alice)).say(chat, "hello")
    async with browser_page() as page:
        await page.route(f"**/{LIBRARY}", lambda route: route.abort())
        paints = [math.inf]
        while min(paints) >= 500 and len(paints) < 10:  # the browser gets up first, and the machine may be busy
            await page.goto(f"http://127.0.0.1:{server.port}/dashboard")
            await expect(page.get_by_label("Access token")).to_be_visible()
            paints.append(await page.evaluate(PAINT))
        assert min(paints) < 500, paints
        await page.get_by_label("Access token").fill(admin())
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-charts")).to_contain_text("The chart library did not load.")
        await expect(page.locator("#live-connections")).to_have_text("2")
