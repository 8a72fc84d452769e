"""What the server counts with where time is dear: a histogram of plain integers. Imports nothing of ours.

Counters are attributes of the objects that do the work, and only ever rise; ``services/metrics.py`` and
``services/vitals.py`` read them. Nothing is looked up, locked or labelled on the way of a message.
"""

from bisect import bisect_left
from collections.abc import Sequence

# From half a millisecond, an idle server's commit, to the deadline after which nobody waits any more.
LATENCY_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
# How many there were of something.
SIZES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Histogram:
    """Counts values by size.

    :param bounds: rising; a value is counted under the first bound that is not less, or past them all.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return the value that ``share`` (0 to 1) of all are no larger than, or None where there are none.

    Within a bucket values are taken to be spread evenly; past the last bound it is that bound.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for place, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= wanted:
            least = bounds[place - 1] if place else 0.0
            return least + (bounds[place] - least) * (wanted - below) / count
        below += count
    return bounds[-1]
