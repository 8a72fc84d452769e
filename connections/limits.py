"""How much each may do: token buckets for rates, and the caps on open connections."""

import time
from collections.abc import Callable

from connections.registry import Registry
from protocol.codes import AppError, CloseCode, ErrorCode


class RateLimiter:
    """Token buckets by key.

    A bucket starts full with ``burst`` tokens and gains ``rate`` a second. A full bucket is not kept, so what is
    idle costs nothing. A ``rate`` of 0 turns the limit off.

    :param rate: tokens a second.
    :param burst: tokens a bucket holds.
    :param clock: monotonic seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self.refused = 0
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sweep_at = 1024

    def change(self, rate: float, burst: float) -> None:
        """Go on with another rate and burst; what was used up stays used up."""
        self._sweep(self._clock())  # a bucket that was full stays so
        self.rate = rate
        self.burst = burst

    def take(self, key: str) -> float:
        """Take a token; return 0.0, or the seconds until there is one."""
        if not self.rate:
            return 0.0
        now = self._clock()
        tokens = self._tokens(key, now)
        if tokens < 1:
            self.refused += 1
            return (1 - tokens) / self.rate
        self._buckets[key] = (tokens - 1, now)
        if len(self._buckets) >= self._sweep_at:
            self._sweep(now)
        return 0.0

    def remaining(self, key: str) -> int:
        """Return how many tokens there are now."""
        return int(self._tokens(key, self._clock()))

    def full_in(self, key: str) -> float:
        """Return the seconds until the bucket is full again."""
        return (self.burst - self._tokens(key, self._clock())) / self.rate if self.rate else 0.0

    def _tokens(self, key: str, now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None:
            return self.burst
        return min(self.burst, bucket[0] + (now - bucket[1]) * self.rate)

    def _sweep(self, now: float) -> None:
        """Drop the full buckets; next time when there are twice as many as are left."""
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if self._tokens(key, now) < self.burst}
        self._sweep_at = max(1024, 2 * len(self._buckets))


class ConnectionLimits:
    """Caps on open sockets, counted from the live registry."""

    def __init__(self, registry: Registry, *, in_all: int, per_user: int, per_address: int) -> None:
        self._registry = registry
        self.change(in_all=in_all, per_user=per_user, per_address=per_address)

    def change(self, *, in_all: int, per_user: int, per_address: int) -> None:
        """Go on with other caps. Nobody who is in is sent away."""
        self._in_all = in_all
        self._per_user = per_user
        self._per_address = per_address

    def admit(self, user_id: str | None, address: str) -> None:
        """Raise ``AppError`` CONNECTION_LIMIT if one more socket would be too many."""
        registry = self._registry
        if len(registry.connections) >= self._in_all:
            raise _too_many("The server has as many connections as it takes.")
        if user_id is not None:
            if registry.count_of_user(user_id) >= self._per_user:
                raise _too_many(f"This user has {self._per_user} connections already, as many as are allowed.")
        elif registry.count_of_address(address) >= self._per_address:
            raise _too_many(f"This address has {self._per_address} connections already, as many as are allowed.")


def _too_many(message: str) -> AppError:
    return AppError(ErrorCode.CONNECTION_LIMIT, message, close=CloseCode.LIMIT)


def rate_limited(wait_s: float, what: str) -> AppError:
    """The answer to something that came too soon; ``wait_s`` is how long to wait."""
    return AppError(
        ErrorCode.RATE_LIMITED, f"Too many {what}. Slow down.", retry_after_ms=max(1, int(wait_s * 1000 + 0.999))
    )
