"""Published keys: RS256 and ES256 tokens, checked with what Supabase publishes, whatever state that is in."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tornado import httpserver, netutil, web
from tornado.ioloop import IOLoop

import services.auth
from tests.harness import Server
from tests.test_auth import USER, bearer, claims_of, handmade, part, refused, user_of

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
EC_384 = ec.generate_private_key(ec.SECP384R1())
SHARED = "a secret that only the tests know, long enough"


class Supabase:
    """Publishes keys on loopback, as Supabase does; ``body`` and ``status`` are what it answers, once it may."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.fetches = 0
        self.answering = asyncio.Event()
        self.answering.set()
        [socket] = netutil.bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        route = (r"/auth/v1/\.well-known/jwks\.json", _KeysHandler, {"supabase": self})
        self.http = httpserver.HTTPServer(web.Application([route], log_function=lambda _: None))
        self.http.add_socket(socket)
        self.publish(rsa=RSA, ec=EC)

    def publish(self, **keys: Any) -> None:
        """Publish these private keys' public halves, by key id."""
        self.body = json.dumps({"keys": [published(key, kid) for kid, key in keys.items()]}).encode()

    def token(self, key: Any, algorithm: str, kid: str, **claims: Any) -> str:
        """Return a token signed with a private key."""
        claims = claims_of(iss=f"{self.url}/auth/v1", **claims)
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})

    def hs256(self, **header: Any) -> str:
        """Return a token signed with the shared secret."""
        return handmade({"alg": "HS256", **header}, claims_of(iss=f"{self.url}/auth/v1"))


class _KeysHandler(web.RequestHandler):
    def initialize(self, supabase: Supabase) -> None:
        self.supabase = supabase

    async def get(self) -> None:
        self.supabase.fetches += 1
        await self.supabase.answering.wait()
        self.set_status(self.supabase.status)
        if self.supabase.status == 302:
            self.set_header("Location", f"{self.supabase.url}/auth/v1/.well-known/jwks.json?again")
        await self.finish(self.supabase.body)


def published(key: Any, kid: str) -> dict[str, Any]:
    """Return a private key's public half as a JWK."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


@pytest.fixture
def supabase(io_loop: IOLoop) -> Iterator[Supabase]:
    """A Supabase that publishes one key of each kind."""

    async def open_one() -> Supabase:
        return Supabase()

    supabase = io_loop.run_sync(open_one)
    yield supabase
    supabase.answering.set()
    supabase.http.stop()
    io_loop.run_sync(supabase.http.close_all_connections)


@pytest.fixture
def any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute between two fetches has always passed."""
    monkeypatch.setattr(services.auth, "JWKS_MIN_INTERVAL_S", 0)


async def status_of(server: Server, given: str) -> tuple[int, str | None]:
    """Return the status and code that REST answers to a token."""
    answer = await server.rest("GET", "/api/conversations", headers=bearer(given))
    return answer.status, answer.body.get("code")


async def only_published(start: Any, supabase: Supabase) -> Server:
    """Return a server that knows no shared secret."""
    return await start(supabase_url=supabase.url, supabase_jwt_secret=None)


async def test_published_keys_are_good(start: Any, supabase: Supabase) -> None:
    """RS256 and ES256 tokens are checked with the keys at SUPABASE_URL, fetched once; HS256 with the shared secret."""
    server = await start(supabase_url=supabase.url)
    for given in (supabase.token(RSA, "RS256", "rsa"), supabase.token(EC, "ES256", "ec"), supabase.hs256()):
        assert await user_of(server, token=given) == USER
        assert await status_of(server, given) == (200, None)
    assert supabase.fetches == 1


async def test_the_key_decides_the_algorithm(start: Any, supabase: Supabase) -> None:
    """The algorithm comes from the key, never from the token: no public key is ever a shared secret."""
    public = RSA.public_key()
    texts = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published(RSA, "rsa")).encode(),
    ]
    claims = claims_of(iss=f"{supabase.url}/auth/v1")
    for server in (await only_published(start, supabase), await start(supabase_url=supabase.url)):
        for text in texts:
            await refused(server, handmade({"alg": "HS256", "kid": "rsa"}, claims, key=text))
        for algorithm in ("none", "HS256", "RS256", "PS256", "ES256"):
            signed = f"{part({'alg': algorithm, 'kid': 'rsa'})}.{part(claims)}"
            await refused(server, f"{signed}.{part(hmac.digest(texts[0], signed.encode(), hashlib.sha256))}")
        await refused(server, supabase.token(RSA, "PS256", "rsa"))
        await refused(server, supabase.token(RSA, "RS256", "ec"))
        await refused(server, supabase.token(EC, "ES256", "rsa"))
        await refused(server, supabase.token(ec.generate_private_key(ec.SECP256R1()), "ES256", "ec"))
        assert await status_of(server, supabase.token(RSA, "RS256", "rsa")) == (200, None)


async def test_published_tokens_have_the_same_claims(start: Any, supabase: Supabase) -> None:
    """`exp`, `aud`, `iss` and `sub` are required of a token with a published key as well."""
    server = await only_published(start, supabase)
    for wrong in ({"exp": int(time.time()) - 1}, {"aud": "anon"}, {"sub": "bob"}):
        await refused(server, supabase.token(RSA, "RS256", "rsa", **wrong))
    await refused(server, jwt.encode(claims_of(iss="https://evil.example"), RSA, "RS256", headers={"kid": "rsa"}))


async def test_without_a_shared_secret_hs256_is_refused(start: Any, supabase: Supabase) -> None:
    """HS256 is for the shared secret alone: a symmetric key among the published ones is none of ours."""
    secret = {"kty": "oct", "kid": "oct", "alg": "HS256", "k": part(SHARED.encode())}
    supabase.body = json.dumps({"keys": [secret, published(RSA, "rsa"), published(EC_384, "384")]}).encode()
    server = await only_published(start, supabase)
    for header in ({}, {"kid": "oct"}, {"kid": "rsa"}, {"kid": "unknown"}):
        await refused(server, supabase.hs256(**header))
    await refused(server, supabase.token(EC_384, "ES384", "384"))
    assert await status_of(server, supabase.token(RSA, "RS256", "rsa")) == (200, None)


async def test_unknown_keys_are_asked_for_once_a_minute(
    start: Any, supabase: Supabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are fetched again when a `kid` is unknown, and at most once a minute, however many come in."""
    server = await only_published(start, supabase)
    unknown = [supabase.token(EC, "ES256", f"new{number}") for number in range(20)]
    assert set(await asyncio.gather(*(status_of(server, given) for given in unknown))) == {(401, "AUTH_FAILED")}
    supabase.publish(rsa=RSA, new0=EC)
    await refused(server, unknown[0])
    assert supabase.fetches == 1
    monkeypatch.setattr(services.auth, "JWKS_MIN_INTERVAL_S", 0)
    assert await status_of(server, unknown[0]) == (200, None)
    assert await status_of(server, unknown[0]) == (200, None)
    assert supabase.fetches == 2


async def test_no_keys_to_be_had(start: Any, supabase: Supabase) -> None:
    """While there are no keys at all nobody is told that their token is bad, and the shared secret goes on."""
    supabase.status = 500
    server = await start(supabase_url=supabase.url)
    given = supabase.token(RSA, "RS256", "rsa")
    answer = await server.rest("GET", "/api/conversations", headers=bearer(given))
    assert (answer.status, answer.body["code"]) == (503, "STORE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1
    client = await server.socket("/messages/subscribe", token=given)
    assert (await client.error("STORE_UNAVAILABLE"))["retryAfterMs"] > 0
    assert await client.closed() == 1013
    await (await server.socket("/events/subscribe", token=given)).get("connection")
    for good in (supabase.hs256(), supabase.hs256(kid="legacy")):
        assert await status_of(server, good) == (200, None)
    assert supabase.fetches == 1


async def test_keys_come_back(start: Any, supabase: Supabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that could not be had at the start are had soon after they are there, without a minute's wait."""
    monkeypatch.setattr(services.auth, "_JWKS_TIMEOUT_S", 0.1)
    supabase.status = 503
    server = await only_published(start, supabase)
    given = supabase.token(RSA, "RS256", "rsa")
    assert await status_of(server, given) == (503, "STORE_UNAVAILABLE")
    supabase.status = 200
    while (answer := await status_of(server, given)) != (200, None):
        assert answer == (503, "STORE_UNAVAILABLE")


@pytest.mark.usefixtures("any_time")
async def test_good_keys_go_on_when_the_source_lies(start: Any, supabase: Supabase) -> None:
    """Keys that are kept go on working while their source is down, sends garbage or sends one elsewhere."""
    server = await only_published(start, supabase)
    given = supabase.token(RSA, "RS256", "rsa")
    assert await status_of(server, given) == (200, None)
    useless = json.dumps({"keys": [published(EC_384, "384")]}).encode()
    nonsense = (
        useless,
        b"",
        b"\xff",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":7}',
        b'{"keys":[{"kty":"RSA"}]}',
    )
    answers = [(200, body) for body in nonsense] + [(500, supabase.body), (404, b""), (302, supabase.body)]
    for status, body in answers:
        supabase.status, supabase.body = status, body
        await refused(server, supabase.token(EC, "ES256", "unknown"))
        assert await status_of(server, given) == (200, None), (status, body)
    supabase.http.stop()
    await supabase.http.close_all_connections()
    await refused(server, supabase.token(EC, "ES256", "unknown"))
    assert await status_of(server, given) == (200, None)


@pytest.mark.usefixtures("any_time")
async def test_a_slow_source_holds_up_nobody_else(
    start: Any, supabase: Supabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are fetched without blocking: who has a known key is answered while another waits, and that one not long."""
    server = await only_published(start, supabase)
    given = supabase.token(RSA, "RS256", "rsa")
    assert await status_of(server, given) == (200, None)
    monkeypatch.setattr(services.auth, "_JWKS_TIMEOUT_S", 1.5)
    supabase.answering.clear()
    waiting = asyncio.create_task(status_of(server, supabase.token(EC, "ES256", "unknown")))
    while supabase.fetches < 2:
        await asyncio.sleep(0)
    assert await status_of(server, given) == (200, None)
    assert not waiting.done()
    assert await waiting == (401, "AUTH_FAILED")
