"""Token buckets: never more than the burst and the rate allow, and never less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.limits import RateLimiter, rate_limited
from protocol.codes import ErrorCode

# Far below what anybody could notice, far above what adding floats loses.
_ROUNDING = 1e-6


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


rates = st.floats(0.1, 1000)
bursts = st.integers(1, 100)
pauses = st.lists(st.floats(0, 10), min_size=1, max_size=200)


@given(rate=rates, burst=bursts, pauses=pauses)
def test_no_window_lets_more_through_than_it_may(rate: float, burst: int, pauses: list[float]) -> None:
    """In any stretch of t seconds at most burst + rate * t."""
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause / rate
        if not limiter.take("a"):
            taken.append(clock.now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - start) + _ROUNDING


@given(rate=rates, burst=bursts, pauses=pauses)
def test_it_says_when_and_keeps_its_word(rate: float, burst: int, pauses: list[float]) -> None:
    """A refusal costs nothing; after the time it names there is a token, and none before."""
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock)
    for pause in pauses:
        clock.now += pause / rate / 10
        assert limiter.remaining("a") >= 1 or limiter.take("a") > 0
        wait = limiter.take("a")
        if not wait:
            continue
        assert limiter.remaining("a") == 0
        assert 0 < wait <= 1 / rate + _ROUNDING
        clock.now += wait * 0.99
        assert limiter.take("a") > 0 or wait * rate < _ROUNDING
        clock.now += wait * 0.01 + _ROUNDING
        assert limiter.take("a") == 0


@given(rate=rates, burst=bursts, taken=st.integers(0, 100))
def test_an_idle_bucket_fills_up(rate: float, burst: int, taken: int) -> None:
    """To the burst and no further, in the time that it says."""
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock)
    for _ in range(min(taken, burst)):
        assert limiter.take("a") == 0
    assert limiter.remaining("a") == burst - min(taken, burst)
    clock.now += limiter.full_in("a") + _ROUNDING
    assert limiter.remaining("a") == burst
    clock.now += 1000
    assert limiter.remaining("a") == burst


def test_keys_have_buckets_of_their_own() -> None:
    """One's use is no other's."""
    limiter = RateLimiter(1, 2, Clock())
    assert [limiter.take("a") > 0 for _ in range(3)] == [False, False, True]
    assert limiter.take("b") == 0


def test_a_rate_of_0_is_no_limit() -> None:
    """For ever."""
    limiter = RateLimiter(0, 1, Clock())
    assert not any(limiter.take("a") for _ in range(1000))
    assert limiter.full_in("a") == 0


def test_what_is_idle_costs_nothing() -> None:
    """A hundred thousand passers-by leave no trace, and whoever is limited stays limited."""
    clock = Clock()
    limiter = RateLimiter(1, 2, clock)
    for number in range(100_000):
        clock.now += 0.01
        limiter.take(f"passer-by {number}")
        limiter.take("a regular")
    assert limiter.take("a regular") > 0
    assert len(limiter._buckets) < 5000


@pytest.mark.parametrize(("wait_s", "millis"), [(0.0001, 1), (0.2, 200), (1.0001, 1001)])
def test_the_answer_names_a_time_that_is_long_enough(wait_s: float, millis: int) -> None:
    """In whole milliseconds, rounded up."""
    error = rate_limited(wait_s, "messages")
    assert (error.code, error.retry_after_ms) == (ErrorCode.RATE_LIMITED, millis)
