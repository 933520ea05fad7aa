"""Batches that are too big, lose their lane, hang, or are answered wrongly: what becomes of their windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest

from stages.engines import BatchTooBig, CancelFlag, Draft, LaneLost, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from stages.engines.room import FULL_BATCHES
from tests.conformance.engine_suite import hear
from tests.stages.asking import ACME, LINES, Crowd, Watched, heard_behind_a_gate, room_of, window
from tests.stages.waiting import until


@pytest.mark.parametrize(("fits", "sizes"), [(4, [1, 8, 4, 4]), (3, [1, 8, 4, 2, 2, 2, 2])])
async def test_a_batch_too_big_for_the_device_is_halved_and_no_later_one_is_larger(fits: int, sizes: list[int]) -> None:
    class Small(Watched):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            drafts = super().run(batch, cancel)
            if len(batch) > fits:
                raise BatchTooBig
            return drafts

    engine = Small(max_batch=8)
    room = room_of(engine)
    windows = [window(n) for n in range(9)]
    async with room.open():
        crowd = Crowd(room, engine)
        await crowd.behind_a_shut_gate(windows)
        assert engine.sizes == sizes
        assert crowd.answers == {n: hear(MockEngine(Script(lines=LINES)), windows[n].samples) for n in range(9)}
        assert room.statistics().max_batch == sizes[-1]
        engine.batches.clear()
        await Crowd(room, engine).behind_a_shut_gate(windows)
    assert max(engine.sizes) == sizes[-1]


async def test_a_window_that_is_too_big_alone_fails_with_what_to_do() -> None:
    class Tiny(MockEngine):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            raise BatchTooBig

    room = room_of(Tiny())
    async with room.open():
        answer = await room.ask(window(), ACME)
    assert isinstance(answer, WindowError)
    assert "ENGINE__MODEL" in answer.detail


class Fragile(Watched):
    """Loses its lane over the windows of ``killer``, as often as it is told to."""

    def __init__(self, kills: int) -> None:
        super().__init__()
        self.kills = kills

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        drafts = super().run(batch, cancel)
        if self.kills and any(item.options.prompt == "killer" for item in batch):
            self.kills -= 1
            raise LaneLost
        return drafts


@pytest.mark.parametrize("kills", [1, 2, 3, 9])
async def test_windows_of_a_lost_lane_run_again_alone_until_one_has_lost_three(kills: int) -> None:
    engine = Fragile(kills)
    first, before, killer, after = await heard_behind_a_gate(
        engine, [window(0), window(1), window(2, prompt="killer"), window(3)]
    )
    assert engine.sizes == [1, 3, 1, *[1] * min(kills, 2), 1]
    assert [first, before, after] == [hear(MockEngine(Script(lines=LINES)), window(n).samples) for n in (0, 1, 3)]
    if kills < 3:
        assert killer == hear(MockEngine(Script(lines=LINES)), window(2).samples)
    else:
        assert isinstance(killer, WindowError)
        assert "3 times" in killer.detail


async def test_a_batch_too_big_is_tried_again_after_many_full_ones() -> None:
    class Passing(Watched):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            drafts = super().run(batch, cancel)
            if self.sizes == [1, 4]:
                raise BatchTooBig
            return drafts

    engine = Passing(max_batch=4)
    room = room_of(engine)
    async with room.open():
        await Crowd(room, engine).behind_a_shut_gate([window(n) for n in range(5)])
        assert room.statistics().max_batch == 2
        for _ in range(FULL_BATCHES):
            await Crowd(room, engine).behind_a_shut_gate([window(n) for n in range(3)])
    assert room.statistics().max_batch == 4


async def test_who_shared_a_lost_lane_does_not_wait_behind_the_window_that_loses_it() -> None:
    class Two(Watched):
        """Loses a lane over a batch with ``killer``; over that alone it hangs until the gate opens."""

        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            self.batches.append([*batch])
            if any(item.options.prompt == "killer" for item in batch):
                if len(batch) > 1:
                    raise LaneLost("it hung")
                self.gate.wait(30)
            return MockEngine.run(self, batch, cancel)

    engine = Two(lanes=2)
    engine.gate.clear()
    room = room_of(engine)
    crowd = Crowd(room, engine)
    async with room.open(), anyio.create_task_group() as group:
        for place in range(4):
            group.start_soon(crowd.ask, place, window(place, prompt="killer" if place == 0 else None))
        await until(lambda: len(crowd.answers) == 3)
        engine.gate.set()
    assert len(crowd.answers) == 4


async def test_an_engine_that_gives_too_few_answers_fails_on_the_windows_and_not_on_the_service() -> None:
    class Short(Watched):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            return super().run(batch, cancel)[1:]

    room = room_of(Short())
    async with room.open():
        assert isinstance(await room.ask(window(), ACME), WindowError)


@pytest.mark.parametrize(("restart_seconds", "hangs"), [(0.0, True), (3600.0, False)])
async def test_a_batch_hangs_after_the_time_to_a_stall_and_that_for_a_lane_to_be_back(
    restart_seconds: float, hangs: bool
) -> None:
    engine = Watched()
    engine.capabilities = replace(engine.capabilities, restart_seconds=restart_seconds)
    engine.gate.clear()
    room = room_of(engine)
    async with room.open(), anyio.create_task_group() as asking:
        assert not room.hangs(0.001)
        asking.start_soon(room.ask, window(), ACME)
        await until(lambda: engine.sizes == [1])
        began = anyio.current_time()
        await until(lambda: anyio.current_time() > began + 0.001)
        assert room.hangs(0.001) is hangs
        assert not room.hangs(3600)
        engine.gate.set()
    assert not room.hangs(0.001)
