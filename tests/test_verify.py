"""``make verify``: passes a good server, fails one with something broken, and says what."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults import proxied
from tests.harness import SECRET, Server, token
from verify.__main__ import AREAS
from verify.checks import Area, Failed, Figure, Found, Outcome, Skipped, run
from verify.report import is_good
from verify.world import World, new_person

ROOT = Path(__file__).parent.parent
Start = Callable[..., Awaitable[Server]]
# A few seconds by itself.
_TIMEOUT_S = 100


async def verify(*arguments: str, **environment: str) -> tuple[int | None, str]:
    """Run the command; return its status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verify", *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode()


def address(server: Server) -> str:
    """Return the server's address."""
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.slow
@pytest.mark.gen_test(timeout=_TIMEOUT_S + 5)
@pytest.mark.timeout(_TIMEOUT_S + 15)
async def test_a_good_server_passes(tmp_path: Path) -> None:
    """One of its own, in the short form: nothing fails, nothing is skipped, and the report says so.

    But for figures over their limit: the tests beside this one have the machine too.
    """
    report = tmp_path / "report.md"
    status, output = await verify("--quick", "--report", str(report))
    failed = [line for line in output.partition("Failed:")[2].partition("Measured:")[0].splitlines() if "    " in line]
    assert all("has to be under" in line for line in failed), output
    assert status == (1 if failed else 0) and "skipped" not in output, output
    text = report.read_text()
    for name in AREAS.values():
        assert f"## {name.name}" in text
    assert text.count("| FAILED |") == len(failed) and "under 100 ms" in text


async def test_a_running_server_with_two_people_s_tokens(server: Server) -> None:
    """Without its key what needs one is skipped and said; the rest passes, and the two people's chat is put away."""
    one, other = await server.person(), await server.person()
    tokens = {"TOKEN": token(one), "OTHER_TOKEN": token(other), "SECRET": ""}
    areas = ("--area", "infrastructure", "--area", "authentication", "--area", "delivery")
    status, output = await verify("--url", address(server), "--quick", *areas, **tokens)
    assert status == 0, output
    assert "2 skipped" in output and "needs SECRET" in output
    assert all(secret not in output for secret in tokens.values() if secret)
    listed = await server.rest("GET", "/api/conversations", user=one)
    assert listed.body == {"conversations": []}


async def test_a_wrong_key_fails(server: Server) -> None:
    """A server that checks tokens with another key than ours."""
    wrong = "a key that is not the server's, long enough"
    status, output = await verify("--url", address(server), "--area", "authentication", SECRET=wrong, TOKEN="")
    assert status == 1, output
    assert "✗ Authentication" in output and "AUTH_FAILED" in output


@pytest.mark.slow
async def test_a_dead_database_fails(start: Start, dsn: str) -> None:
    """The server is up, and its PostgreSQL is not."""
    async with proxied(dsn) as proxy:
        broken = Server(proxy.dsn, request_timeout_s=2)
        await broken.start()
        try:
            proxy.refuse()
            status, output = await verify("--url", address(broken), "--area", "infrastructure", SECRET=SECRET)
        finally:
            await broken.stop()
    assert status == 1, output
    assert "The database is connected" in output and "503" in output


async def test_nothing_there_fails() -> None:
    """No server at the address."""
    url = "http://127.0.0.1:9"
    status, output = await verify("--url", url, "--area", "infrastructure", SECRET=SECRET)
    assert status == 1, output
    assert "5 of 5 checks failed" in output


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("http://127.0.0.1:9", {}, "OTHER_TOKEN"),
        ("127.0.0.1:9", {"SECRET": SECRET}, "expected an address"),
        ("http://127.0.0.1:9", {"TOKEN": "x", "OTHER_TOKEN": "y"}, "no access token"),
        ("http://127.0.0.1:9", {"TOKEN": token("a"), "OTHER_TOKEN": token("a")}, "same user"),
    ],
)
async def test_what_it_needs_is_said(url: str, environment: dict[str, str], said: str) -> None:
    """Wrong or missing settings: 2, and what was expected."""
    nothing = {"SECRET": "", "TOKEN": "", "OTHER_TOKEN": ""}
    status, output = await verify("--url", url, **{**nothing, **environment})
    assert status == 2 and said in output, output


async def test_what_comes_of_a_check() -> None:
    """A figure over its limit, a broken promise and a fault of the check are failures; a skipped one is none."""
    area = Area("Trial")

    @area.check("too slow")
    async def slow(_world: World) -> Found:
        return Figure(101, "ms", below=100)

    @area.check("fast enough")
    async def fast(_world: World) -> Found:
        return Figure(99, "ms", below=100)

    @area.check("broken")
    async def broken(_world: World) -> Found:
        raise Failed("it was not so")

    @area.check("faulty")
    async def faulty(_world: World) -> Found:
        raise KeyError("missing")

    @area.check("untried")
    async def untried(_world: World) -> Found:
        raise Skipped("no key")

    person = new_person(SECRET)
    world = World("http://127.0.0.1:9", person, person, secret=None, is_own=False, quick=True)
    results = [await run(check, world) for check in area.checks]
    failed, passed, skipped = Outcome.FAILED, Outcome.PASSED, Outcome.SKIPPED
    assert [result.outcome for result in results] == [failed, passed, failed, failed, skipped]
    assert not is_good(results) and is_good(results[1:2]) and is_good([results[1], results[4]])
    assert not is_good(results[4:]), "nothing tried is nothing verified"
    world.rest.close()
