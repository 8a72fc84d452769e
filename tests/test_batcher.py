"""Batches: gather while one is under way, leave at once when the lane is free, fail one by one."""

import asyncio
import time
from collections.abc import Sequence

import pytest

import storage.batcher
from protocol.codes import AppError, ErrorCode, not_participant
from storage.batcher import Batcher
from storage.database import BadData, Conflict
from tests.harness import SOON_S, until


class Lane:
    """What a batcher runs on, with a gate in front: doubles numbers, refuses 13, can't store 666."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def run(self, items: list[int]) -> Sequence[int | AppError]:
        self.batches.append(items)
        await self.gate.wait()
        if self.fault:
            raise self.fault
        if 666 in items:
            raise BadData("22021")
        return [not_participant("x") if item == 13 else item * 2 for item in items]


def submit_all(batcher: Batcher[int, int], items: Sequence[int]) -> "list[asyncio.Future[int]]":
    """Submit from as many callers."""
    return [batcher.submit(item) for item in items]


async def ends(tasks: "list[asyncio.Future[int]]") -> list[object]:
    """Return each caller's result or exception."""
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_a_free_lane_adds_no_delay_and_a_busy_one_gathers() -> None:
    """The first leaves alone; all that come meanwhile leave together, in the order they came."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5, max_batch=4)
    lane.gate.clear()
    tasks = submit_all(batcher, [0])
    await until(lambda: lane.batches == [[0]])
    tasks += submit_all(batcher, range(1, 7))
    await until(lambda: batcher.waiting == 6)
    lane.gate.set()
    assert await ends(tasks) == [0, 2, 4, 6, 8, 10, 12]
    assert lane.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert await batcher.submit(21) == 42, "an empty lane starts again"


async def test_a_refusal_is_one_callers_own() -> None:
    """An AppError among the results is raised to its caller alone."""
    batcher: Batcher[int, int] = Batcher(Lane().run, deadline_s=5)
    first, refused, last = await ends(submit_all(batcher, [1, 13, 3]))
    assert (first, last) == (2, 6)
    assert isinstance(refused, AppError)
    assert refused.code is ErrorCode.NOT_PARTICIPANT


@pytest.mark.parametrize("place", [0, 3, 6])
async def test_a_poisoned_row_fails_alone(place: int) -> None:
    """Its batch is run in halves until it stands alone, and the order of the others stays."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5)
    items = list(range(7))
    items[place] = 666
    results = await ends(submit_all(batcher, items))
    assert isinstance(results[place], BadData)
    assert [result for at, result in enumerate(results) if at != place] == [item * 2 for item in items if item != 666]
    stored = [item for batch in lane.batches if 666 not in batch for item in batch]
    assert stored == [item for item in items if item != 666], "each once"


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), Conflict("key"), AppError(ErrorCode.STORE_UNAVAILABLE, "")])
async def test_every_caller_hears_of_a_failure(fault: Exception) -> None:
    """Whatever it was; and the lane goes on."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5)
    lane.fault = fault
    assert await ends(submit_all(batcher, [1, 2, 3])) == [fault] * 3
    lane.fault = None
    assert await batcher.submit(4) == 8


async def test_the_deadline() -> None:
    """A caller waits no longer, an item that nobody waits for is not run, and the lane goes on."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=0.1)
    lane.gate.clear()
    started = time.monotonic()
    stuck = submit_all(batcher, [1])
    await until(lambda: bool(lane.batches))
    stuck += submit_all(batcher, [2, 3])
    for end in await ends(stuck):
        assert isinstance(end, AppError)
        assert end.code is ErrorCode.STORE_UNAVAILABLE
    assert 0.09 < time.monotonic() - started < SOON_S
    lane.gate.set()
    assert await batcher.submit(4) == 8
    assert lane.batches == [[1], [4]]


async def test_a_cancelled_caller_takes_nobody_with_it() -> None:
    """Whether its item was under way or waiting."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5)
    lane.gate.clear()
    tasks = submit_all(batcher, [1])
    await until(lambda: bool(lane.batches))
    tasks += submit_all(batcher, [2, 3, 4])
    await until(lambda: batcher.waiting == 3)
    tasks[0].cancel()
    tasks[2].cancel()
    await asyncio.wait([tasks[0], tasks[2]])
    lane.gate.set()
    assert (await tasks[1], await tasks[3]) == (4, 8)
    assert lane.batches == [[1], [2, 4]]


async def test_too_many_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would not be served in time."""
    monkeypatch.setattr(storage.batcher, "MAX_WAITING", 2)
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5)
    lane.gate.clear()
    tasks = submit_all(batcher, [0])
    await until(lambda: bool(lane.batches))
    tasks += submit_all(batcher, [1, 2])
    await until(lambda: batcher.waiting == 2)
    with pytest.raises(AppError) as caught:
        await batcher.submit(3)
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    lane.gate.set()
    assert await ends(tasks) == [0, 2, 4]


async def test_settled_waits_for_the_batch_under_way() -> None:
    """And for no later one; an idle lane is settled."""
    lane = Lane()
    batcher: Batcher[int, int] = Batcher(lane.run, deadline_s=5)
    await batcher.settled()
    lane.gate.clear()
    tasks = submit_all(batcher, [1])
    await until(lambda: bool(lane.batches))
    settled = asyncio.create_task(batcher.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    lane.gate.set()
    await settled
    assert await ends(tasks) == [2]
