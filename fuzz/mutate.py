"""Many inputs out of few: hypothesis draws the seeds, and these cut, repeat, swap and spoil them."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from conformance.client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

T = TypeVar("T")

_TOKENS = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "NaN",
    "1e999",
    "-",
    "\x00",
    "\ufeff",
    " ",
]
_LENGTHS = (0, 1, 125, 126, 127, 65535, 65536, 65537, 2**31, 2**63, 2**64 - 1)


def draw(strategy: st.SearchStrategy[T], count: int, number: int) -> list[T]:
    """Return about ``count`` examples, the same for the same ``number``."""
    found: list[T] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def gather(example: Any) -> None:
        found.append(example)

    gather()
    return found


def texts(seeds: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Return the seeds and mutations of them, ``count`` in all."""
    return [*seeds[:count], *(_spoiled(rng.choice(seeds), seeds, rng) for _ in range(count - len(seeds)))]


def _spoiled(text: str, seeds: Sequence[str], rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        match rng.randint(0, 6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:end] * rng.choice((1, 2)) + text[end:]
            case 2:
                text = text[:start] + rng.choice(_TOKENS) + text[start:]
            case 3:
                text = text[:start] + chr(rng.choice((rng.randint(0, 127), rng.randint(0, 0xD7FF)))) + text[start + 1 :]
            case 4:
                text = text[:start] + rng.choice(seeds)[start:]
            case 5:
                text = text[:start]
            case _:
                text += rng.choice(seeds)
    return text[:60_000]


def spoiled_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with a few bytes flipped, cut out, repeated or put in."""
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randint(0, len(spoiled))
        match rng.randint(0, 4):
            case 0 if place < len(spoiled):
                spoiled[place] ^= 1 << rng.randint(0, 7)
            case 1:
                del spoiled[place : place + rng.randint(1, 8)]
            case 2:
                spoiled[place:place] = rng.randbytes(rng.randint(1, 8))
            case 3:
                spoiled[place:place] = spoiled[place : place + 20]
            case _:
                del spoiled[place:]
    return bytes(spoiled)


def wire(payloads: Sequence[str], rng: random.Random) -> bytes:
    """Return bytes for an open WebSocket: a few frames, most of them wrong in some way, or no frames at all."""
    if not rng.randint(0, 7):
        return rng.randbytes(rng.choice((1, 2, 7, 50, 500)))
    data = b"".join(
        _wire_frame(rng.choice(payloads).encode("utf-8", "surrogatepass"), rng) for _ in range(rng.randint(1, 4))
    )
    return data if rng.randint(0, 2) else spoiled_bytes(data, rng)


def _wire_frame(payload: bytes, rng: random.Random) -> bytes:
    match rng.randint(0, 11):
        case 0:
            return frame(TEXT, payload, masked=False)
        case 1:
            return frame(rng.randint(0, 15), payload[: rng.choice((0, 10, 125, 60_000))])
        case 2:
            return frame(TEXT, payload, reserved=rng.randint(1, 7))
        case 3:
            return frame(
                rng.choice((PING, PONG)), payload[: rng.choice((0, 125, 126, 300))], final=bool(rng.randint(0, 3))
            )
        case 4:
            code = rng.choice((None, 0, 999, 1000, 1001, 1005, 1006, 1015, 2999, 3000, 4999, 5000, 65535))
            return close(code, payload[: rng.choice((0, 5, 123, 124))] if code is not None else b"")
        case 5:
            return frame(CLOSE, payload[: rng.choice((1, 2, 50))])
        case 6:
            half = rng.randint(0, len(payload))
            return frame(TEXT, payload[:half], final=False) + frame(
                CONTINUATION, payload[half:], final=bool(rng.randint(0, 1))
            )
        case 7:
            head = bytes((0x80 | rng.choice((TEXT, BINARY, PING)), rng.choice((0x7E, 0x7F, 0xFE, 0xFF))))
            return head + rng.choice(_LENGTHS).to_bytes(8, "big") + payload[:100]
        case 8:
            return frame(TEXT, spoiled_bytes(payload, rng))
        case 9:
            return frame(BINARY, payload)
        case _:
            return frame(TEXT, payload)
