"""The console in a real Chromium, against a real server: what a person would try by hand."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from storage.seed import ALICE, BOUNTY, CONVERSATION
from tests.browser import LiveServer
from tests.harness import token

# Servers are started and killed, and the machine may be busy with other tests.
pytestmark = pytest.mark.timeout(120)

MAX_WIRE_BYTES = 200_000
MAX_FIRST_PAINT_MS = 500
FRAMES = 10_000
ROW_PX = 28
SCROLL_STEPS = 220
# 60 pictures a second leave 16.7 ms for each, and the browser has to paint them too.
MAX_PICTURE_MS = 12
# A noise of the test's own doing: the server was killed, or the network cut.
EXPECTED_NOISE = re.compile(r"WebSocket connection to|Failed to load resource|ERR_CONNECTION")

Open = Callable[..., Page]


@pytest.fixture
def tab(chromium: Browser, live: LiveServer) -> Iterator[Open]:
    """Open consoles as somebody. None may say anything wrong, or ask anybody else for anything."""
    pages: list[Page] = []
    wrong: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not EXPECTED_NOISE.search(message.text):
            wrong.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith((live.url, "blob:")):
            wrong.append(f"asked {request.url}")

    def open_one(who: str | None, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        page = context.new_page()
        pages.append(page)
        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(f"{live.url}/console" + (f"#{who}" if who else ""))
        if who:
            is_connected(page)
        return page

    yield open_one
    for page in pages:
        page.context.close()
    assert wrong == []


def is_connected(page: Page) -> None:
    """Wait until both sockets are open and the chat is there."""
    for socket in ("messages", "events"):
        expect(page.locator(f"#{socket}-state")).to_have_text(f"{socket} open", timeout=15_000)
    expect(page.locator("#conversation")).to_have_value(CONVERSATION)


def say(page: Page, text: str) -> None:
    """Write a message as a person does."""
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def chat(page: Page) -> list[str]:
    """Return the texts in the chat, from top to bottom."""
    return page.locator(".bubble p").all_text_contents()


def bubble(page: Page, text: str) -> Any:
    """Return a message's bubble."""
    return page.locator(".bubble", has_text=text)


def change_bounty(page: Page, status: str) -> None:
    """Change the bounty's status by the console."""
    page.get_by_label("New status of Find my cat").select_option(status)
    page.get_by_role("button", name="Change").click()


def stored(server: LiveServer) -> list[str]:
    """Return the chat as the database has it."""
    return [text for (text,) in server.sql("SELECT text FROM messages ORDER BY seq")]


def test_two_tabs(tab: Open, live: LiveServer) -> None:
    """From the first page on: be alice, open bob, chat; ticks, typing and presence; a bounty changes for both."""
    alice = tab(None)
    alice.get_by_role("button", name="Be alice").click()
    is_connected(alice)
    with alice.context.expect_page() as opened:
        alice.get_by_role("link", name="Open bob in another tab").click()
    bob = opened.value
    is_connected(bob)
    expect(alice.locator("#people")).to_contain_text("bob online")
    bob.get_by_label("Say “read”").uncheck()

    alice.locator("#text").press_sequentially("Is the cat ba")
    expect(bob.locator("#typing")).to_have_text("alice is typing…")
    say(alice, "Is the cat back?")
    expect(bubble(alice, "Is the cat back?").locator(".ticks")).to_have_attribute("aria-label", "delivered")
    expect(bob.locator("#typing")).to_have_text("")
    bob.get_by_label("Say “read”").check()
    expect(bubble(alice, "Is the cat back?").locator(".ticks")).to_have_attribute("aria-label", "read")
    say(bob, "She is!\nOn the roof.")
    expect(bubble(alice, "She is!")).to_contain_text("bob")
    assert chat(alice) == chat(bob) == stored(live) == ["Is the cat back?", "She is!\nOn the roof."]

    change_bounty(alice, "in_progress")
    for page in (alice, bob):
        expect(page.locator("#bounty-events li").first).to_contain_text("Find my cat is in_progress")
        expect(page.locator("#bounty-list .status")).to_have_text("in_progress")
    change_bounty(bob, "completed")
    expect(bob.locator("#notice")).to_have_text("Only the bounty's creator or hunter may change its status.")
    live.sql("UPDATE bounties SET status = 'completed' WHERE id = %s", BOUNTY)
    expect(bob.locator("#bounty-events li").first).to_contain_text("completed")

    bob.close()
    expect(alice.locator("#people")).to_contain_text("bob offline, last seen")
    alice.reload()
    is_connected(alice)
    expect(alice.locator(".bubble")).to_have_count(2)
    expect(bubble(alice, "Is the cat back?").locator(".ticks")).to_have_attribute("aria-label", "read")


def test_a_killed_network(tab: Open, live: LiveServer) -> None:
    """What both say meanwhile arrives when it is restored, in one order; events are resumed."""
    alice, bob = tab("alice"), tab("bob")
    say(alice, "before")
    expect(bubble(bob, "before")).to_be_visible()
    alice.get_by_role("button", name="Kill the network").click()
    expect(alice.locator("#messages-state")).to_contain_text(re.compile("waiting|connecting"))
    say(alice, "from the tunnel")
    expect(bubble(alice, "from the tunnel").locator(".ticks")).to_have_attribute("aria-label", "pending")
    for number in range(3):
        say(bob, f"are you there? {number}")
        expect(bubble(bob, f"there? {number}").locator(".ticks")).to_have_attribute("aria-label", "sent")
    live.sql("UPDATE bounties SET status = 'in_progress' WHERE id = %s", BOUNTY)
    expect(bob.locator("#bounty-events")).to_contain_text("in_progress")
    expect(alice.locator("#bounty-events")).to_contain_text("Nothing yet")
    assert chat(alice) == ["before", "from the tunnel"]

    alice.get_by_role("button", name="Restore the network").click()
    is_connected(alice)
    expect(bubble(bob, "from the tunnel")).to_be_visible()
    expect(bubble(alice, "from the tunnel").locator(".ticks")).to_have_attribute("aria-label", "read")
    expect(alice.locator(".bubble")).to_have_count(5)
    assert chat(alice) == chat(bob) == stored(live)
    expect(alice.locator("#bounty-events li").first).to_contain_text("in_progress missed, sent again")
    # The frames show what happened: the offline queue, the sync, the resumed stream.
    alice.locator("#filter").fill("replay")
    expect(alice.locator(".frame:visible", has_text="replay.complete").first).to_contain_text("count")
    alice.locator("#filter").fill("sync.complete")
    expect(alice.locator(".frame:visible").first).to_contain_text("sync.complete")


def test_a_killed_server(tab: Open, live: LiveServer) -> None:
    """kill -9 under both tabs: they come back by themselves, and nothing is lost or doubled. What is said meanwhile is
    for people, not what the browser calls it.
    """
    alice, bob = tab("alice"), tab("bob")
    say(alice, "before")
    expect(bubble(bob, "before")).to_be_visible()
    live.sql("INSERT INTO conversations (id, is_group) VALUES (%s, true)", BOUNTY)
    live.sql("INSERT INTO conversation_participants (conversation_id, user_id) SELECT %s, id FROM profiles", BOUNTY)
    expect(alice.get_by_role("option", name="bob (group)")).to_be_attached()
    live.kill()
    expect(alice.locator("#messages-state")).not_to_contain_text("open")
    say(alice, "while it was down")
    alice.get_by_role("combobox", name="Conversation").select_option(BOUNTY)
    expect(alice.locator("#messages")).to_contain_text("can't be had now")
    alice.get_by_role("combobox", name="Conversation").select_option(CONVERSATION)
    expect(alice.locator("#notice")).to_have_text("Messages: The server can't be reached.")
    expect(bubble(alice, "while it was down")).to_have_attribute("data-status", "pending")
    live.start()
    for page in (alice, bob):
        is_connected(page)
    say(bob, "and after")
    for page in (alice, bob):
        expect(page.locator(".bubble")).to_have_count(3)
        assert sorted(chat(page)) == sorted(stored(live))
    assert chat(alice) == chat(bob) == stored(live)


def test_a_message_that_is_refused(tab: Open) -> None:
    """It stays, with the reason and a way to try again; the chat goes on. Markup in a message is text."""
    alice, bob = tab("alice"), tab("bob")
    say(alice, "x" * 4001)
    failed = alice.locator(".bubble[data-status=failed]")
    expect(failed).to_contain_text("longer than 4000 characters")
    expect(failed.get_by_role("button", name="Try again")).to_be_in_viewport()
    alice.locator("#text").fill("and more")
    failed.get_by_role("button", name="Edit").click()
    expect(alice.locator("#text")).to_have_value("x" * 4001 + "\nand more")
    expect(alice.locator("#text")).to_be_focused()
    expect(failed).to_have_count(0)
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    say(alice, hostile)
    expect(bubble(bob, hostile)).to_be_visible()
    assert bob.locator("#messages img, #messages script, #list img").count() == 0
    assert bob.title().startswith("bob")
    say(alice, "هل عادت القطة؟")
    expect(bubble(bob, "القطة").locator("p")).to_have_css("direction", "rtl")


def test_a_token_that_is_refused(tab: Open, live: LiveServer) -> None:
    """What is no token, and one that the server refuses, are said so where it was pasted; a good one gets in."""
    page = tab(None)
    for text, reason in (("nonsense", "three parts"), (token(ALICE, exp=1), "The server refused this token.")):
        page.get_by_label("paste an access token").fill(text)
        page.get_by_role("button", name="Connect with the token").click()
        expect(page.get_by_role("alert")).to_contain_text(reason)
    assert page.locator("#notice").text_content() == "", "said once, where the token was pasted"
    # "a token…" is not what is chosen now: choosing it again asks again.
    expect(page.get_by_label("You are")).to_have_value("pasted")
    page.keyboard.press("Escape")
    page.get_by_label("You are").select_option("a token…")
    page.get_by_label("paste an access token").fill(token(ALICE))
    page.get_by_role("button", name="Connect with the token").click()
    is_connected(page)
    expect(page.locator("#people")).to_contain_text("alice (you) online")


def test_every_frame_from_a_form(tab: Open) -> None:
    """Each frame's form, as it is filled in, makes a frame that the server takes; an edited one goes out as it is."""
    alice = tab("alice")
    say(alice, "a message to name")
    expect(bubble(alice, "a message to name").locator(".ticks")).to_have_attribute("aria-label", re.compile("sent|del"))
    kinds = alice.locator("#frame-type option").evaluate_all("all => all.map((one) => one.value)")
    assert len(kinds) == 12
    answers = {
        "message.send": "message.ack", "sync": "sync.complete", "join": "joined", "leave": "left", "ping": "pong",
        "subscribe": "subscribed", "unsubscribe": "subscribed",
    }  # fmt: skip
    for kind in kinds:
        _, name = kind.split(":")
        alice.locator("#frame-type").select_option(kind)
        alice.locator("#clear").click()
        alice.get_by_role("button", name="Send the frame").click()
        expect(alice.locator(".frame:visible .type").first).to_have_text(name)
        if name in answers:
            expect(alice.locator(".frame:visible .type").filter(has_text=answers[name])).to_have_count(1)
        if name == "auth.refresh":  # the one that can't be filled in
            expect(alice.locator(".frame:visible", has_text="error")).to_contain_text("token")
        else:
            expect(alice.locator(".frame[data-family=error]:visible")).to_have_count(0)
    alice.locator("#frame-text").fill('{"type": "mess')
    alice.get_by_role("button", name="Send the frame").click()
    expect(alice.locator(".frame:visible", has_text="INVALID_JSON")).to_have_count(1)
    assert "eyJ" not in alice.locator("#frames").inner_text(), "a token is shown"


def test_frames_are_filtered_and_looked_at(tab: Open) -> None:
    """By text, direction and colour; with the keyboard too."""
    alice = tab("alice")
    say(alice, "needle")
    shown = alice.locator(".frame:visible")
    expect(alice.locator(".frame:visible", has_text="message.ack")).to_have_count(1)
    alice.locator("#filter").fill("needle")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("“needle”")
    assert re.fullmatch(r"1 of \d+", alice.locator("#count").inner_text())
    alice.locator("#filter").fill("")
    alice.locator("#direction").select_option("out")
    assert set(alice.locator(".frame:visible .way").all_text_contents()) == {"↑"}
    alice.locator("#direction").select_option("")
    alice.locator(".chip[data-family=message]").click()
    expect(alice.locator(".frame:visible[data-family=message]")).to_have_count(0)
    alice.locator(".chip[data-family=message]").click()
    alice.locator("#filter").fill("needle")
    alice.locator("#list").focus()
    alice.keyboard.press("ArrowUp")
    expect(alice.locator("#detail-text")).to_contain_text('"text": "needle"')
    expect(alice.locator("#list")).to_have_attribute("aria-activedescendant", shown.get_attribute("id") or "none")
    alice.keyboard.press("Escape")
    expect(alice.locator("#detail")).to_be_hidden()
    for leave in ("Enter", "Escape"):
        alice.keyboard.press("ArrowUp")
        alice.get_by_role("button", name="Close").press(leave)
        expect(alice.locator("#detail")).to_be_hidden()
        expect(alice.locator("#list")).to_be_focused()


def test_by_keyboard_alone(tab: Open, live: LiveServer) -> None:
    """Every control can be reached and has a name; a message is sent without a mouse."""
    alice = tab(None)
    expect(alice.get_by_role("button", name="Be alice")).to_be_focused()
    alice.keyboard.press("Enter")
    is_connected(alice)
    reached: dict[str, str] = {}
    for _ in range(60):
        alice.keyboard.press("Tab")
        at = alice.evaluate(
            "() => { const e = document.activeElement; return [e.id || e.textContent, e.matches(':focus-visible'),"
            " getComputedStyle(e).outlineStyle]; }"
        )
        if at[0] in reached:
            break
        reached[at[0]] = at[2]
        if at[0] == "text":
            alice.keyboard.type("by keyboard")
            alice.keyboard.press("Enter")
    for name in ("person", "connect", "network", "conversation", "messages", "text", "filter", "list", "frame-type",
                 "frame-text", "copy-snippet", "snippet-text"):  # fmt: skip
        assert reached.get(name) == "solid", f"{name} is not reached, or it can't be seen that it is: {reached}"
    expect(bubble(alice, "by keyboard").locator(".ticks")).to_have_attribute("aria-label", "sent")
    assert stored(live) == ["by keyboard"]


@pytest.mark.parametrize("kind", ["library", "plain"])
def test_the_snippet(tab: Open, kind: str) -> None:
    """Pasted into the browser's own console as it stands, it works."""
    page = tab("bob")
    page.locator(f"input[value={kind}]").check()
    text = page.locator("#snippet-text").inner_text()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    developer_tools = page.context.new_cdp_session(page)
    for _ in range(2):  # and pasted again
        answer = developer_tools.send(
            "Runtime.evaluate",
            {"expression": text, "replMode": True, "awaitPromise": True, "includeCommandLineAPI": True},
        )
        assert "exceptionDetails" not in answer, answer
    expect(page.locator(".bubble", has_text="Is the cat back?")).to_have_count(2)
    deadline = time.monotonic() + 15
    while not any("bob" in line for line in said) and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert any(line.startswith("bob") for line in said), said


@pytest.mark.slow
def test_ten_thousand_frames(tab: Open, live: LiveServer) -> None:
    """10,000 real events are all there; scrolling draws a screenful at a time, well within a picture's 16.7 ms."""
    page = tab("alice")
    page.locator("#filter").fill("bounty.status")
    live.sql(f"INSERT INTO bounties (title, description) SELECT 'bounty ' || n, '' FROM generate_series(1, {FRAMES}) n")
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{FRAMES}( of \d+)?$"), timeout=60_000)
    developer_tools = page.context.new_cdp_session(page)
    developer_tools.send("Performance.enable")

    def busy_ms() -> float:
        metrics = {one["name"]: one["value"] for one in developer_tools.send("Performance.getMetrics")["metrics"]}
        return 1000 * sum(metrics[f"{part}Duration"] for part in ("Script", "Layout", "RecalcStyle"))

    before = busy_ms()
    seen = page.evaluate(
        """async (steps) => {
          const list = document.getElementById("list");
          let drawn = 0;
          const next = () => new Promise(requestAnimationFrame);
          list.scrollTop = 0;
          for (let step = 0; step < steps; step += 1) {
            list.scrollTop += step % 2 ? 90 : 2250;
            await next();
            await next();
            const top = Math.floor(list.scrollTop / 28) + 1;
            if (list.querySelector(`.frame:not([hidden])[aria-posinset="${top}"]`)) drawn += 1;
          }
          return { top: list.scrollTop, rows: list.querySelectorAll(".frame").length, height: list.scrollHeight,
            drawn };
        }""",
        SCROLL_STEPS,
    )
    picture_ms = (busy_ms() - before) / SCROLL_STEPS
    print(f"scrolling through {FRAMES} frames: {picture_ms:.2f} ms of work a picture, {seen}")
    assert seen["height"] == FRAMES * ROW_PX and seen["rows"] < 100
    assert seen["top"] > FRAMES * ROW_PX * 0.9 and seen["drawn"] == SCROLL_STEPS, "it was not drawn"
    assert picture_ms < MAX_PICTURE_MS


def first_paint(page: Page) -> float:
    """Return the milliseconds from the navigation to the first content in sight."""
    found: float = page.evaluate(
        """() => new Promise((resolve) => new PerformanceObserver((list) => {
          const [paint] = list.getEntriesByName("first-contentful-paint");
          if (paint) resolve(paint.startTime);
        }).observe({ type: "paint", buffered: true }))"""
    )
    return found


def test_weight_and_first_paint(tab: Open) -> None:
    """Under 200 KB over the wire with all it loads; painted within half a second."""
    page = tab("alice")
    sizes = page.evaluate(
        """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
          .map(({ name, transferSize }) => [new URL(name).pathname, transferSize])"""
    )
    paints = [first_paint(page)]
    while min(paints) >= MAX_FIRST_PAINT_MS and len(paints) < 10:  # the machine may be busy with other things
        page.reload()
        paints.append(first_paint(page))
    total = sum(size for _, size in sizes)
    print(f"console: {total} bytes over the wire in {len(sizes)} requests, first paint after {min(paints):.0f} ms")
    assert len(sizes) > 10 and MAX_WIRE_BYTES > total > 50_000, sizes
    assert min(paints) < MAX_FIRST_PAINT_MS


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 900, 360])
def test_axe(tab: Open, scheme: str, width: int) -> None:
    """No serious or critical finding, with everything in sight; nothing is wider than the page."""
    page = tab(None, color_scheme=scheme, viewport={"width": width, "height": 800})
    findings = [("the dialog", Axe().run(page))]
    page.get_by_role("button", name="Be alice").click()
    is_connected(page)
    say(page, "a message with_one_very_long_word_" + "x" * 300)
    say(page, "x" * 4001)
    expect(page.locator(".bubble[data-status=failed]")).to_be_visible()
    change_bounty(page, "in_progress")
    expect(page.locator("#bounty-events")).to_contain_text("in_progress")
    page.locator(".frame:visible").first.click()
    page.locator(".chip").nth(1).click()
    findings.append(("the page", Axe().run(page)))
    page.get_by_role("button", name="Kill the network").click()
    expect(page.locator("#messages-state")).to_contain_text(re.compile("waiting|connecting"))
    findings.append(("without a network", Axe().run(page)))
    bad = [
        (where, found["id"], found["impact"], [node["html"][:200] for node in found["nodes"]])
        for where, result in findings
        for found in result.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
    assert bad == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="the README's pictures are made by: make screenshots")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(tab: Open, scheme: str) -> None:
    """A chat under way, as the README shows it."""
    alice, bob = tab("alice", color_scheme=scheme, viewport={"width": 1400, "height": 820}), tab("bob")
    say(alice, "Is the cat back?")
    expect(bubble(bob, "Is the cat back?")).to_be_visible()
    say(bob, "Yes! She was on the roof the whole time, watching us call for her.")
    expect(bubble(alice, "on the roof")).to_be_visible()
    change_bounty(alice, "completed")
    expect(alice.locator("#bounty-events")).to_contain_text("completed")
    alice.get_by_role("button", name="Kill the network").click()
    say(alice, "Thank you so much! The reward is yours.")
    expect(alice.locator(".bubble[data-status=pending]")).to_be_visible()
    alice.get_by_role("button", name="Restore the network").click()
    is_connected(alice)
    expect(bubble(alice, "The reward").locator(".ticks")).to_have_attribute("aria-label", "read")
    bob.get_by_label("Say “read”").uncheck()
    say(alice, "See you at six?")
    expect(bubble(alice, "See you").locator(".ticks")).to_have_attribute("aria-label", "delivered")
    bob.locator("#text").press_sequentially("Perf")
    expect(alice.locator("#typing")).to_have_text("bob is typing…")
    expect(alice.locator("#notice")).to_have_text("", timeout=10_000)
    bob.locator("#text").press_sequentially("ect")
    alice.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"console-{scheme}.png")
