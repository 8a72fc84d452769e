"""Expo's push protocol over HTTP: requests, tickets, receipts, the pace it allows, and when to leave it alone.

Knows nothing of people or of the database. The protocol: docs.expo.dev, "Send notifications with the Expo Push
Service". The access token and push tokens are never logged.
"""

import asyncio
import email.utils
import gzip
import random
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import structlog
from msgspec import UNSET, Struct, UnsetType
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

log = structlog.get_logger()

# Expo's own limits: messages and receipts a request, messages a second and project.
MAX_MESSAGES = 100
MAX_RECEIPTS = 1000
MAX_A_SECOND = 600
# What Expo's own client keeps open at most.
MAX_REQUESTS = 6

_CONNECT_TIMEOUT_S = 10.0
# Long on purpose: a request given up may have been acted on, and is sent again.
REQUEST_TIMEOUT_S = 60.0
_MAX_ANSWER_BYTES = 1024 * 1024
# Smaller bodies don't get smaller.
_GZIP_FROM_BYTES = 1024

# Backoff doubles from the first to the last; Retry-After may ask for more, within reason.
_BACKOFF_S, _BACKOFF_MOST_S = 1.0, 60.0
_RETRY_AFTER_MOST_S = 3600.0
# After so many failures in a row it counts as down.
_DOWN_AFTER = 3

DEVICE_NOT_REGISTERED = "DeviceNotRegistered"
# An error's name, and nothing that could be a token.
_NAME = re.compile(r"[A-Za-z_]{1,64}")
# A ticket's id, and nothing that a database would not take.
_TICKET = re.compile(r"[!-~]{1,200}")
# What a message of the request is to blame for. Any other fault is of Expo, of the address or of the access token.
_REFUSALS = (400, 413, 422)


class Unavailable(Exception):
    """Expo did not answer, or asked to be left alone: nothing is known to be sent. The same request may be repeated."""


class Refused(Exception):
    """Expo understood and refused the whole request; ``code`` says why. Repeating it changes nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Message(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """One push, as Expo's API has it."""

    to: str
    title: str | UnsetType = UNSET
    body: str | UnsetType = UNSET
    data: dict[str, str] = {}
    badge: int | UnsetType = UNSET
    sound: str | UnsetType = UNSET
    ttl: int | UnsetType = UNSET
    priority: str | UnsetType = UNSET
    channel_id: str | UnsetType = UNSET
    content_available: bool | UnsetType = msgspec.field(name="_contentAvailable", default=UNSET)


class Details(Struct):
    """Why a push failed, in Expo's vocabulary."""

    error: str | None = None


class Outcome(Struct):
    """Expo's answer to one message. A ticket: accepted under ``id``, or not. A receipt: what Apple or Google said."""

    status: str
    id: str | None = None
    details: Details | None = None

    @property
    def ticket(self) -> str | None:
        """Where to ask for the receipt, or None where there will be none."""
        return self.id if self.status == "ok" and self.id and _TICKET.fullmatch(self.id) else None

    @property
    def error(self) -> str | None:
        """Expo's name for what went wrong, or None where nothing did."""
        if self.status == "ok":
            return None
        name = (self.details.error if self.details else None) or ""
        return name if _NAME.fullmatch(name) else "Unknown"


class _Tickets(Struct):
    data: list[Outcome]


class _Receipts(Struct):
    data: dict[str, Outcome]


class _Fault(Struct):
    code: str = "UNKNOWN"


class _Faults(Struct):
    errors: list[_Fault] = []


class Expo:
    """A client of Expo's push service.

    :param url: ``…/v2/push``, without the end.
    :param access_token: goes with every request.
    """

    def __init__(self, url: str, access_token: str, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._access_token = access_token
        self._request_timeout_s = request_timeout_s
        self._client = AsyncHTTPClient(
            force_instance=True, max_clients=MAX_REQUESTS, max_body_size=_MAX_ANSWER_BYTES, max_header_size=65_536
        )
        self._free_at = 0.0
        self._failures = 0
        self._wait_until = 0.0
        # Servers that share Expo's limit; each takes its part.
        self.servers = 1
        # Of the last request that was answered.
        self.latency_ms: float | None = None

    @property
    def room(self) -> int:
        """How many requests may be under way now: none while Expo is left alone, then one to see if it is back."""
        if time.monotonic() < self._wait_until:
            return 0
        return 1 if self._failures else MAX_REQUESTS

    @property
    def healthy(self) -> bool:
        """Whether Expo answers, as far as is known."""
        return self._failures < _DOWN_AFTER

    @property
    def wait(self) -> timedelta:
        """How long it makes no sense to try again."""
        return timedelta(seconds=max(0.0, self._wait_until - time.monotonic()))

    async def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send up to 100 messages; return a ticket each, in order. Raises ``Unavailable`` or ``Refused``."""
        await self._keep_pace(len(messages))
        tickets: list[Outcome] = (await self._post("/send", list(messages), _Tickets)).data
        if len(tickets) != len(messages):
            raise self._failed("WRONG_COUNT")
        return tickets

    async def receipts(self, ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the receipts that exist among up to 1000 tickets. Raises ``Unavailable`` or ``Refused``."""
        receipts: dict[str, Outcome] = (await self._post("/getReceipts", {"ids": list(ids)}, _Receipts)).data
        return receipts

    def close(self) -> None:
        """End it; what is under way fails."""
        self._client.close()

    async def _keep_pace(self, count: int) -> None:
        """Wait for this request's turn, so that no second sees more than ``MAX_A_SECOND`` messages."""
        now = time.monotonic()
        starts_at = max(now, self._free_at)
        self._free_at = starts_at + count * self.servers / MAX_A_SECOND
        if starts_at > now:
            await asyncio.sleep(starts_at - now)

    async def _post(self, path: str, value: Any, kind: type[Any]) -> Any:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._access_token}",
        }
        body = msgspec.json.encode(value)
        if len(body) >= _GZIP_FROM_BYTES:
            body = gzip.compress(body, 6)
            headers["Content-Encoding"] = "gzip"
        started = time.monotonic()
        try:
            answer = await self._client.fetch(
                self._url + path, method="POST", headers=headers, body=body, raise_error=False,
                connect_timeout=_CONNECT_TIMEOUT_S, request_timeout=self._request_timeout_s,
                follow_redirects=False, decompress_response=True,
            )  # fmt: skip
        except Exception as error:  # no connection, no answer in time, or one that is no HTTP, or no gzip
            raise self._failed(type(error).__name__) from None
        self.latency_ms = round((time.monotonic() - started) * 1000, 1)
        return self._read(answer, kind)

    def _read(self, answer: HTTPResponse, kind: type[Any]) -> Any:
        if answer.code == 429 or answer.code >= 500:
            raise self._failed(answer.code, _retry_after(answer))
        if answer.code in _REFUSALS:
            self._answered()
            raise Refused(_fault(answer.body))
        if answer.code != 200:  # somebody has to set it right, and nothing is lost until then
            raise self._failed(answer.code)
        try:
            value = msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError:
            raise self._failed(_fault(answer.body)) from None
        self._answered()
        return value

    def _answered(self) -> None:
        if time.monotonic() < self._wait_until:  # begun before another was told to wait: that holds
            return
        if not self.healthy:
            log.info("expo.back")
        self._failures = 0

    def _failed(self, reason: object, retry_after_s: float = 0.0) -> Unavailable:
        """Leave Expo alone for a while: the longer, the more often it has failed in a row."""
        now = time.monotonic()
        if now >= self._wait_until:  # requests that failed together count once
            self._failures += 1
        doubled = min(self._failures - 1, 10)  # no power of an outage of days
        backoff_s = min(_BACKOFF_MOST_S, _BACKOFF_S * 2**doubled) * random.uniform(0.5, 1)  # noqa: S311
        wait_s = max(backoff_s, min(retry_after_s, _RETRY_AFTER_MOST_S))
        self._wait_until = max(self._wait_until, now + wait_s)
        log.warning("expo.unavailable", reason=str(reason), failures=self._failures, wait_s=round(wait_s, 1))
        return Unavailable(str(reason))


def _fault(body: bytes) -> str:
    """Return Expo's code for what is wrong with a whole request."""
    try:
        faults = msgspec.json.decode(body, type=_Faults).errors
    except msgspec.DecodeError:
        return "UNREADABLE"
    return faults[0].code if faults and _NAME.fullmatch(faults[0].code) else "UNKNOWN"


def _retry_after(answer: HTTPResponse) -> float:
    """Return the seconds of Retry-After, a number or a date (RFC 9110, section 10.2.3); 0.0 without one."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
