"""Who somebody is, from their Supabase access token. One check for sockets and REST.

The key decides the algorithm, never the token: HS256 belongs to the shared secret, ES256 and RS256 to the published
keys (RFC 8725, section 3.1). Nothing of a token goes into a log, an error or an exception.
"""

import asyncio
import hashlib
import re
import time
from typing import Any

import jwt
import structlog
from cachetools import TTLCache
from jwt.types import Options
from msgspec import Struct
from tornado.httpclient import AsyncHTTPClient

from protocol.codes import AppError, CloseCode, ErrorCode
from protocol.inbound import parse_id

log = structlog.get_logger()

AUDIENCE = "authenticated"
# Longer than any Supabase token; a token is a header, and verifying costs time by length.
MAX_TOKEN_CHARS = 8192
_FAR_FUTURE = 253402300799.0  # the end of the year 9999
# The key set is fetched at most once in this time, however many unknown kids come in.
JWKS_MIN_INTERVAL_S = 60
_JWKS_TIMEOUT_S = 5
# A withdrawn key is good for no longer than this, and a key set no larger.
_JWKS_MAX_AGE_S = 600
_JWKS_MAX_BYTES = 262_144
# A token that was good is taken for good this long without another look: a client uses one for an hour.
_VERIFIED_FOR_S, _VERIFIED_MOST = 60, 10_000
# `aud` is checked below; `iat` is no reason to refuse (RFC 7519, section 4.1.6): whoever made the token may have a
# clock that is a second ahead of ours.
_CHECKS: Options = {"require": ["exp"], "verify_aud": False, "verify_iat": False}
_NO_HANDLE_CHARS = re.compile(r"[^\w.-]+", re.ASCII)
# A tuple: a role of a token may be a list or an object, which no set can be asked for.
_ADMIN_ROLES = ("admin", "super_admin")


class Identity(Struct, frozen=True, kw_only=True):
    """What a valid token says. ``user_id`` is None only for the service role's key, which is nobody's."""

    user_id: str | None
    wanted_handle: str
    expires_at: float
    is_admin: bool
    is_service: bool

    @property
    def user(self) -> str:
        """The user's id. Raises ``AppError`` AUTH_FAILED for a token that belongs to nobody."""
        if self.user_id is None:
            raise auth_failed()
        return self.user_id


def auth_required() -> AppError:
    """No token was given."""
    return AppError(
        ErrorCode.AUTH_REQUIRED,
        "Authentication required. Provide token in query string or Authorization header.",
        close=CloseCode.UNAUTHORIZED,
    )


def auth_failed() -> AppError:
    """The token is bad or has expired; which of the two, and why, is nobody's business."""
    return AppError(
        ErrorCode.AUTH_FAILED, "Authentication failed. Invalid or expired token.", close=CloseCode.UNAUTHORIZED
    )


class Authenticator:
    """Verifies tokens.

    :param secret: the HS256 key, if there is one.
    :param jwks_url: where the public keys are, if there are any.
    :param issuer: what ``iss`` has to be, if it is checked.
    """

    def __init__(self, *, secret: str | None, jwks_url: str | None, issuer: str | None) -> None:
        self._keys: _KeySet | None = None
        # By the token's hash: tokens themselves are kept nowhere.
        self._verified: TTLCache[bytes, Identity] = TTLCache(_VERIFIED_MOST, _VERIFIED_FOR_S)
        # Tokens that were bad or had expired.
        self.refused = 0
        self.change(secret=secret, jwks_url=jwks_url, issuer=issuer)

    def change(self, *, secret: str | None, jwks_url: str | None, issuer: str | None) -> None:
        """Go on with other keys, from the next token on; published ones are fetched anew when one is needed."""
        self._secret = secret
        self._issuer = issuer
        if self._keys is not None and self._keys.url == jwks_url:
            self._keys.refresh()
        else:
            self._keys = _KeySet(jwks_url) if jwks_url else None
        self._verified.clear()

    async def identify(self, token: str | None) -> Identity:
        """Return whose token this is.

        Raises ``AppError`` AUTH_REQUIRED without a token, AUTH_FAILED with a bad or expired one, and
        STORE_UNAVAILABLE when the keys to check it with can't be had.
        """
        if not token:
            raise auth_required()
        if len(token) > MAX_TOKEN_CHARS:
            self.refused += 1
            raise auth_failed()
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        identity = self._verified.get(digest)
        if identity is None or identity.expires_at <= time.time():
            identity = self._verified[digest] = await self._verify(token)
        return identity

    async def _verify(self, token: str) -> Identity:
        try:
            key, algorithm = await self._key_for(token)
            claims = jwt.decode(token, key, algorithms=[algorithm], options=_CHECKS)
            return self._identity(claims)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            self.refused += 1
            raise auth_failed() from None

    async def _key_for(self, token: str) -> tuple[Any, str]:
        """Return the key that a token has to be signed with, and that key's algorithm."""
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        # Supabase's HS256 tokens have a kid too, and need nothing of the published keys. That the token says so decides
        # only where its key is looked for: whichever is found then decides the algorithm.
        is_shared = self._secret is not None and header.get("alg") == "HS256"
        if self._keys is not None and isinstance(kid, str) and not is_shared:
            found = await self._keys.find(kid)
            if found is not None:
                return found
        if self._secret is None:
            raise jwt.InvalidTokenError
        return self._secret, "HS256"

    def _identity(self, claims: dict[str, Any]) -> Identity:
        metadata = _mapping(claims.get("app_metadata"))
        is_service = claims.get("role") == "service_role"
        if not is_service or claims.get("sub") is not None:
            audience = claims.get("aud")
            if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
                raise ValueError("aud")
            if self._issuer is not None and claims.get("iss") != self._issuer:
                raise ValueError("iss")
        user_id = None if is_service and claims.get("sub") is None else str(parse_id(claims.get("sub")))
        return Identity(
            user_id=user_id,
            wanted_handle=_wanted_handle(claims, user_id or ""),
            # Later than any clock of ours can show is as good as never.
            expires_at=min(float(claims["exp"]), _FAR_FUTURE),
            is_admin=metadata.get("role") in _ADMIN_ROLES or claims.get("role") in _ADMIN_ROLES,
            is_service=is_service,
        )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _wanted_handle(claims: dict[str, Any], user_id: str) -> str:
    """Return the handle for a profile that does not exist yet: chosen, else the e-mail's local part, else by id."""
    email = claims.get("email")
    chosen = _mapping(claims.get("user_metadata")).get("handle")
    for wish in (chosen, email.split("@")[0] if isinstance(email, str) else None):
        if isinstance(wish, str):
            handle = _NO_HANDLE_CHARS.sub("_", wish.strip())[:40].strip("_")
            if handle:
                return handle
    return f"user_{user_id[:8]}"


class _KeySet:
    """The published keys: fetched without blocking, kept, and fetched again when an unknown kid turns up."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._keys: dict[str, tuple[Any, str]] = {}
        self._fetched_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._failed = False
        self._client = AsyncHTTPClient(force_instance=True, max_body_size=_JWKS_MAX_BYTES)

    async def find(self, kid: str) -> tuple[Any, str] | None:
        """Return the key and its algorithm, or None. Raises STORE_UNAVAILABLE while no keys can be had at all."""
        if kid not in self._keys and self._may_fetch(JWKS_MIN_INTERVAL_S):
            await asyncio.shield(self._fetch_once())
        elif self._may_fetch(_JWKS_MAX_AGE_S):
            self._fetch_once()
        if self._failed and not self._keys:
            raise AppError(
                ErrorCode.STORE_UNAVAILABLE,
                "Tokens can't be checked right now. Try again shortly.",
                retry_after_ms=5000,
                close=CloseCode.TRY_LATER,
            )
        return self._keys.get(kid)

    def refresh(self) -> None:
        """Have the next look fetch them; until that has succeeded, those that we have are good."""
        self._fetched_at = None

    def _may_fetch(self, age_s: float) -> bool:
        return self._fetching is not None or self._fetched_at is None or time.monotonic() - self._fetched_at >= age_s

    def _fetch_once(self) -> "asyncio.Task[None]":
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        self._fetched_at = time.monotonic()
        try:
            answer = await self._client.fetch(
                self.url, connect_timeout=_JWKS_TIMEOUT_S, request_timeout=_JWKS_TIMEOUT_S, follow_redirects=False
            )
            key_set = jwt.PyJWKSet.from_json(answer.body.decode())
            usable = ((key, _algorithm(key)) for key in key_set.keys if key.key_id)
            keys = {str(key.key_id): (key.key, algorithm) for key, algorithm in usable if algorithm}
            self._keys = keys or self._keys
            self._failed = False
        except Exception as error:  # down, slow, or lying: the keys we have go on working
            self._failed = True
            # Nothing had yet: whoever comes next asks again, but not at once.
            if not self._keys:
                self._fetched_at -= JWKS_MIN_INTERVAL_S - _JWKS_TIMEOUT_S
            log.warning("auth.keys_unavailable", error=type(error).__name__)
        finally:
            self._fetching = None


def _algorithm(key: jwt.PyJWK) -> str | None:
    """Return the one algorithm that this key is for, or None where it is for none that we take."""
    if key.key_type == "RSA":
        return "RS256"
    if key.key_type == "EC":
        return "ES256" if key.algorithm_name == "ES256" else None
    return None
