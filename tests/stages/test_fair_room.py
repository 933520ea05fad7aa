"""The room between tenants: who gets a place in it, who a lane, and that nobody is kept from what nobody else wants."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import count

import anyio
import anyio.lowlevel
import pytest
from anyio import Semaphore, from_thread

from pipeline.errors import EngineLost
from stages.engines import CancelFlag, Draft, Window, WindowError
from stages.engines.mock import Prepared
from stages.engines.room import Asker, ModelRoom
from tests.stages.asking import Watched, asker, room_of, window
from tests.stages.test_fairness import FIVE, jain
from tests.stages.waiting import at_mock_time, until


class Timed(Watched):
    """On a clock that jumps, a window takes the seconds that ``FIVE`` gives its tenant, who is named in its prompt."""

    long_enough = 200

    def __init__(self, *, mistaken: float) -> None:
        super().__init__(max_batch=4)
        self.mistaken = mistaken
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.enough = anyio.Event()

    def cost(self, item: Prepared) -> float:
        return FIVE[str(item.options.prompt)][0] * self.mistaken

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        for item in batch:
            self.seconds[str(item.options.prompt)] += FIVE[str(item.options.prompt)][0]
        from_thread.run(anyio.sleep, sum(FIVE[str(item.options.prompt)][0] for item in batch))
        if sum(self.seconds.values()) > self.long_enough:
            from_thread.run_sync(self.enough.set)
        return super().run(batch, cancel)


async def asking_all_the_time(room: ModelRoom, name: str, at_once: int, weight: float = 1.0, beam: int = 5) -> None:
    jobs = count()

    async def one_after_another() -> None:
        while True:
            await room.ask(window(prompt=name, beam=beam), asker(name, next(jobs), weight=weight))

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(one_after_another)


@pytest.mark.parametrize("memory_limit", [1, 2**30], ids=["few places", "many"])
@pytest.mark.parametrize("mistaken", [0.1, 10])
@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3, 4, 0.5)], ids=["alike", "by weight"])
def test_five_tenants_of_unequal_load_have_engine_seconds_by_weight(
    weights: tuple[float, ...], mistaken: float, memory_limit: int
) -> None:
    engine = Timed(mistaken=mistaken)

    async def main() -> None:
        room = room_of(engine, memory_limit=memory_limit)
        async with room.open(), anyio.create_task_group() as group:
            for place, (name, weight) in enumerate(zip(FIVE, weights, strict=True)):
                group.start_soon(asking_all_the_time, room, name, 40 + 30 * place, weight)
            await engine.enough.wait()
            group.cancel_scope.cancel()

    at_mock_time(main)
    assert jain(engine.seconds[name] / weight for name, weight in zip(FIVE, weights, strict=True)) >= 0.95


def test_what_batches_took_stands_in_place_of_what_was_expected() -> None:
    """To the engine all windows cost the same; no two tenants share a batch, so that what theirs took is theirs."""

    class Blind(Timed):
        long_enough = 600

        def cost(self, item: Prepared) -> float:
            return 1.0

    engine = Blind(mistaken=1)

    async def main() -> None:
        room = room_of(engine)
        async with room.open(), anyio.create_task_group() as group:
            for place, name in enumerate(FIVE):
                group.start_soon(asking_all_the_time, room, name, 40, 1.0, place)
            await engine.enough.wait()
            group.cancel_scope.cancel()

    at_mock_time(main)
    assert jain(engine.seconds.values()) >= 0.95


@pytest.mark.parametrize("beam", [5, 1], ids=["same key", "other key"])
@pytest.mark.parametrize("places", [1, 64], ids=["few places", "some"])
async def test_who_asks_once_beside_a_tenant_with_a_thousand_jobs_is_heard_within_two_batches(
    places: int, beam: int
) -> None:
    engine = Watched(max_batch=16)
    room = room_of(engine, memory_limit=places * 1024)
    held = max(32, places - 16)

    async def long_job(job: int) -> None:
        async with anyio.create_task_group() as group:
            for n in range(16):  # two windows of each of eight tracks
                group.start_soon(room.ask, window(n, prompt="a"), asker("a", job))

    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        for job in range(50):
            group.start_soon(long_job, 1000 + job)
        for job in range(1000):
            group.start_soon(room.ask, window(job % 500, prompt="a"), asker("a", job))
        await until(lambda: room.statistics().ready + sum(engine.sizes) == held)
        await anyio.wait_all_tasks_blocked()
        assert room.statistics().outside == 1800 - held
        group.start_soon(room.ask, window(7, prompt="b", beam=beam), asker("b"))
        await until(lambda: room.statistics().ready + sum(engine.sizes) == held + 1)
        engine.gate.set()
        await until(lambda: len(engine.batches) >= 3)
        group.cancel_scope.cancel()
    assert [item.options.prompt for batch in engine.batches[:3] for item in batch].count("b") == 1


@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_long_recording_alone_fills_the_batches_of_every_lane(lanes: int) -> None:
    class Slow(Watched):
        """A batch takes until there is another full one."""

        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            until_then = time.monotonic() + 10
            while room.statistics().ready < 8 and not all_asked.is_set():
                time.sleep(0.001)
                if time.monotonic() > until_then:
                    raise EngineLost("Nothing to do while the other lanes run.")
            return super().run(batch, cancel)

    engine, all_asked = Slow(max_batch=8, lanes=lanes), threading.Event()
    room = room_of(engine)
    places = Semaphore(room.windows_per_track)

    async def ask() -> None:
        await room.ask(window(), asker("a"))
        places.release()

    async with room.open(), anyio.create_task_group() as group:
        for _ in range(400):
            await places.acquire()
            group.start_soon(ask)
        all_asked.set()
    assert Counter(engine.sizes)[8] >= 400 // 8 - 2 * lanes


async def test_places_are_given_to_those_who_have_none_before_those_who_have_many() -> None:
    engine = Watched(max_batch=2)
    room = room_of(engine, memory_limit=1)
    read: list[str] = []

    async def ask(name: str) -> None:
        async def reading() -> Window:
            read.append(name)
            return window(prompt=name)

        await room.ask(reading, asker(name))

    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        for _ in range(20):
            group.start_soon(ask, "a")
        await until(lambda: engine.prepared == 4)
        await anyio.wait_all_tasks_blocked()
        assert read == ["a"] * 4
        for name in ("b", "c", "d"):
            group.start_soon(ask, name)
        await until(lambda: engine.prepared == 6)
        await anyio.wait_all_tasks_blocked()
        assert len(set(read[4:]) - {"a"}) == len(read[4:]) == 2, "not the places that are kept, or not for others"
        engine.gate.set()
    assert Counter(read) == Counter(a=20, b=1, c=1, d=1)
    assert set("bcd") <= set(read[:9])


@pytest.mark.parametrize("ticks", [0, 1, 2])
async def test_windows_that_are_given_up_anywhere_leave_nothing_behind(ticks: int) -> None:
    engine = Watched(max_batch=2)
    room = room_of(engine, memory_limit=1)

    async def ask_in_vain(whose: Asker) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(room.ask, window(), whose)
            for _ in range(ticks):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async with room.open():
        for _ in range(10):
            async with anyio.create_task_group() as group:
                for n in range(10):
                    group.start_soon(ask_in_vain, asker(f"tenant-{n % 3}", n))
        told = room.statistics()
        assert (told.outside, told.ready) == (0, 0)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for n in range(8):
                    group.start_soon(room.ask, window(n), asker("a"))
    assert engine.sizes[-2:] == [2, 2]
