"""The server behind the real nginx with ``deploy/nginx``: upgrade, idle, addresses, bodies, restarts, logs."""

import asyncio
import contextlib
import datetime
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

from settings import Settings
from tests.fake_systemd import FakeSystemd
from tests.harness import SOON_S, Client, free_port, token, until
from tests.talkers import Caller, Talker, until_they_talk
from tests.test_command import ROOT
from tests.test_systemd import conversation, people, service

__all__ = ["service"]

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx-light")
CONFIGURATION = (ROOT / "deploy" / "nginx" / "bountyexpo-realtime.conf").read_text()
RESTARTS = 1


class Nginx:
    """nginx of its own, with the shipped configuration; only ports, names of files and, if given, times are others."""

    def __init__(self, directory: Path, upstream: int, replaced: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        certificate(directory)
        text = CONFIGURATION
        for shipped, ours in {
            "127.0.0.1:3001": f"127.0.0.1:{upstream}",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "    listen [::]:443 ssl http2;\n": "",
            "    listen [::]:80;\n": "",
            "/etc/letsencrypt/live/realtime.example.com/": f"{directory}/",
            "/var/log/nginx/": f"{directory}/",
            **(replaced or {}),
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, ours)
        user = "user root;\n" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(
            f"{user}daemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/main.log;\n"
            f"events {{ worker_connections 512; }}\nhttp {{\n{temporary}{text}}}\n"
        )
        assert NGINX is not None
        self._process = subprocess.Popen([NGINX, "-p", str(directory), "-c", str(directory / "nginx.conf")])

    @property
    def url(self) -> str:
        """Where it listens, without a scheme."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Wait until it takes connections."""
        await until(lambda: self._process.poll() is not None or accepts(self.port))
        assert self._process.poll() is None, (self.directory / "main.log").read_text()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)

    def logs(self) -> str:
        """Return all that it has written."""
        return "".join(path.read_text() for path in self.directory.glob("*.log") if path.name != "server.log")


def accepts(port: int) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def certificate(directory: Path) -> None:
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "realtime.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("realtime.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (directory / "fullchain.pem").write_bytes(signed.public_bytes(encoding))
    (directory / "privkey.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@contextlib.asynccontextmanager
async def behind(unit: FakeSystemd, directory: Path, replaced: dict[str, str] | None = None) -> AsyncIterator[Nginx]:
    """The started service behind nginx."""
    nginx = Nginx(directory, unit.port, replaced)
    try:
        await nginx.start()
        await unit.start()
        yield nginx
    finally:
        nginx.close()


TRUSTING = {"trusted_proxies": "127.0.0.1"}
UNVERIFIED: dict[str, Any] = {"validate_cert": False}


async def test_a_websocket_and_a_call(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """Both go through, over TLS; a body of 10 MB is refused by nginx; no token is in any log, whatever happens."""
    unit = service(**TRUSTING)
    [alice] = people(dsn, 1)
    bearer = token(alice)
    http = AsyncHTTPClient(force_instance=True)
    async with behind(unit, tmp_path) as nginx:

        async def fetch(path: str, **options: Any) -> Any:
            return await http.fetch(f"https://{nginx.url}{path}", raise_error=False, **UNVERIFIED, **options)

        url = f"wss://{nginx.url}/messages/subscribe?token={bearer}"
        client = Client(await websocket_connect(HTTPRequest(url, **UNVERIFIED)), "/messages/subscribe")
        assert (await client.get("connected"))["userId"] == alice
        client.socket.close()
        host = f"realtime.example.com:{nginx.port}"
        own_page = HTTPRequest(url, headers={"Host": host, "Origin": f"https://{host}"}, **UNVERIFIED)
        (await websocket_connect(own_page)).close()
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        assert (await fetch("/api/conversations", headers=headers)).code == 200
        assert (await fetch(f"/api/conversations?token={bearer}", headers=headers)).code == 200
        too_large = await fetch("/api/bounties", method="POST", body=b"x" * 10_000_000, headers=headers)
        assert too_large.code == 413
        assert "request.failed" not in unit.log.read_text() and '"status": 413' not in unit.log.read_text()
        assert (await fetch("/metrics")).code == 404
        assert await unit.stop() == 0
        unit.listening.close()
        assert (await fetch(f"/api/conversations?token={bearer}", headers=headers)).code == 502
        await until(lambda: " 502 " in nginx.logs())
        logs = nginx.logs()
    assert '"GET /messages/subscribe HTTP/1.1" 101' in logs
    assert "token" not in logs and bearer[:20] not in logs
    assert "token=" not in unit.log.read_text()


async def test_the_client_s_address(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """Limits are the client's own, not the proxy's, and what a client says of its address is not believed."""
    unit = service(**TRUSTING, max_connections_per_ip=1)
    async with behind(unit, tmp_path) as nginx, contextlib.AsyncExitStack() as opened:
        for source, claim, first in [
            ("127.0.0.2", None, '"type":"connection"'),
            ("127.0.0.3", None, '"type":"connection"'),
            ("127.0.0.2", None, "CONNECTION_LIMIT"),
            ("127.0.0.2", "203.0.113.9", "CONNECTION_LIMIT"),
        ]:
            assert first in await opened.enter_async_context(_stream(nginx, source, claim)), (source, claim)


async def test_an_idle_connection(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """The server's pings keep it open past nginx's timeout, which is longer than they are apart as shipped."""
    defaults = Settings()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        found = re.search(rf"{name} +(\d+)s;", CONFIGURATION)
        assert found and int(found[1]) > defaults.heartbeat_interval_s + defaults.heartbeat_timeout_s
    unit = service(**TRUSTING, heartbeat_interval_s=0.4, heartbeat_timeout_s=2)
    async with behind(unit, tmp_path, {"proxy_read_timeout 120s": "proxy_read_timeout 2s"}) as nginx:
        client = Client(
            await websocket_connect(HTTPRequest(f"wss://{nginx.url}/events/subscribe", **UNVERIFIED)),
            "/events/subscribe",
        )
        await client.get("connection")
        await client.nothing(within=3)
        await client.send("ping", ts=1)
        await client.get("pong")
        client.socket.close()


@pytest.mark.gen_test(timeout=55)
async def test_restarts_behind_it(service: Callable[..., FakeSystemd], dsn: str, tmp_path: Path) -> None:
    """Clients of the proxy notice no more of a restart than the server's own: no 502, nothing lost."""
    unlimited = dict.fromkeys(("message_rate", "frame_rate", "rest_rate_per_minute", "connect_rate_per_10s"), 0)
    unit = service(**TRUSTING, **unlimited, log_level="warning")
    alice, bob, carol = people(dsn, 3)
    chat = conversation(dsn, alice, bob, carol)
    async with behind(unit, tmp_path) as nginx:
        talkers = [Talker(nginx.url, one, chat, scheme="wss", ssl=UNVERIFIED) for one in (alice, bob)]
        caller = Caller(nginx.url, carol, chat, scheme="https", ssl=UNVERIFIED)
        tasks = [asyncio.ensure_future(one) for one in (*(one.talk() for one in talkers), caller.call())]
        try:
            for number in range(RESTARTS):
                await until_they_talk(talkers, returns=number)
                await unit.restart()
            await until_they_talk(talkers, returns=RESTARTS)
            for one in (*talkers, caller):
                one.leaving = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for one in talkers:
            await one.catch_up()
    assert [failure for one in (*talkers, caller) for failure in one.failures] == []
    assert caller.sent > 0
    assert all(len(one.heard) == len(set(one.heard)) for one in talkers)


@contextlib.asynccontextmanager
async def _stream(nginx: Nginx, source: str, claim: str | None) -> AsyncIterator[str]:
    """Open the event stream from an address of this machine; give its first frame."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port, ssl=context, local_addr=(source, 0))
    forwarded = f"X-Forwarded-For: {claim}\r\n" if claim else ""
    writer.write(
        f"GET /events/subscribe HTTP/1.1\r\nHost: realtime.example.com\r\nUpgrade: websocket\r\n{forwarded}"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "\r\n".encode()
    )
    try:
        assert b" 101 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        yield (await asyncio.wait_for(reader.readuntil(b"}"), SOON_S)).decode("utf-8", "replace")
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
