"""What a check is: a promise in words, a function that tries it, and what came of it."""

import time
from collections.abc import Awaitable, Callable
from enum import Enum

from msgspec import Struct

from verify.world import World

Trial = Callable[[World], Awaitable["Found"]]


class Failed(Exception):
    """The promise was not kept; ``str(error)`` says what was seen instead."""


class Skipped(Exception):
    """It can't be tried here; ``str(error)`` says what is missing."""


class Figure(Struct, frozen=True):
    """Something measured, and the limit that it has to stay below."""

    value: float
    unit: str
    below: float
    what: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is within its limit."""
        return self.value < self.below

    def __str__(self) -> str:
        return f"{self.value:,.{1 if self.value < 100 else 0}f} {self.unit}{f' ({self.what})' if self.what else ''}"

    @property
    def target(self) -> str:
        """The limit in words."""
        return f"under {self.below:,.0f} {self.unit}"


Found = str | Figure


class Outcome(Enum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"


class Check(Struct, frozen=True):
    """A promise, and how it is tried."""

    area: str
    promise: str
    trial: Trial


class Result(Struct, frozen=True):
    """What came of one check. ``found`` is what was seen, or why it failed or was skipped."""

    check: Check
    outcome: Outcome
    found: str
    target: str
    seconds: float


class Area:
    """The checks of one area, in the order of their definition."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.checks: list[Check] = []

    def check(self, promise: str) -> Callable[[Trial], Trial]:
        """Make a check of the function below. What it returns was found; it raises ``Failed`` or ``Skipped``."""

        def add(trial: Trial) -> Trial:
            self.checks.append(Check(self.name, promise, trial))
            return trial

        return add


async def run(check: Check, world: World) -> Result:
    """Try one check, whatever happens in it."""
    began = time.monotonic()
    target = ""
    try:
        found = await check.trial(world)
        outcome = Outcome.PASSED
        if isinstance(found, Figure):
            target = found.target
            outcome = Outcome.PASSED if found.is_good else Outcome.FAILED
        said = str(found)
    except Skipped as error:
        outcome, said = Outcome.SKIPPED, str(error)
    except Exception as error:  # a fault of the server, of the network or of the check itself: none is a pass
        outcome, said = Outcome.FAILED, reason(error)
    finally:
        world.close_sockets()
    return Result(check, outcome, said, target, time.monotonic() - began)


def expect(condition: object, otherwise: str) -> None:
    """Raise ``Failed`` unless the condition holds."""
    if not condition:
        raise Failed(otherwise)


def reason(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Failed) else f"{type(error).__name__}: {text}" if text else type(error).__name__


def quantile(values: list[float], part: float) -> float:
    """Return the value below which ``part`` of them are."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
