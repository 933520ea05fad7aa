"""The model room: many ask, few lanes answer, in batches that nobody can tell from being alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest
from anyio import CancelScope, current_time
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.typing import EventDict

from pipeline.errors import EngineLost
from stages.engines import CancelFlag, Draft, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from tests.conformance.engine_suite import hear
from tests.stages.asking import ACME, LINES, Crowd, Watched, heard_behind_a_gate, room_of, window
from tests.stages.waiting import at_mock_time, until


def test_a_window_that_is_alone_is_heard_at_once() -> None:
    async def main() -> None:
        room = room_of(Watched())
        async with room.open():
            began = current_time()
            await room.ask(window(), ACME)
            assert current_time() == began

    at_mock_time(main)


async def test_windows_that_arrive_while_the_lane_is_busy_share_the_next_batches() -> None:
    engine = Watched(max_batch=4)
    windows = [window(n) for n in range(8)]
    await heard_behind_a_gate(engine, windows)
    assert engine.sizes == [1, 4, 3]
    heard = [item.line for batch in engine.batches for item in batch]
    assert heard == [engine.prepare(asked).line for asked in windows], "not in order of age"


@pytest.mark.parametrize(("windows", "sizes"), [(3, [3]), (6, [4, 2])])
async def test_windows_that_are_asked_for_together_share_the_first_batch(windows: int, sizes: list[int]) -> None:
    engine = Watched(max_batch=4)
    room = room_of(engine)
    async with room.open(), anyio.create_task_group() as group:
        for n in range(windows):
            group.start_soon(room.ask, window(n), ACME)
    assert engine.sizes == sizes


async def test_a_batch_has_one_key_and_the_oldest_window_says_which() -> None:
    engine = Watched(max_batch=4)
    await heard_behind_a_gate(engine, [window(n, beam=beam) for n, beam in enumerate([5, 1, 5, 1, 5, 1])])
    assert [[item.options.beam for item in batch] for batch in engine.batches] == [[5], [1, 1, 1], [5, 5]]


async def test_idle_lanes_share_what_is_there() -> None:
    class Together(Watched):
        """Prepares two windows at one time, and runs only while the other lane runs too."""

        desk, lanes = threading.Barrier(2, timeout=10), threading.Barrier(2, timeout=10)

        def prepare(self, window: Window) -> Prepared:
            self.desk.wait()
            return super().prepare(window)

        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            self.lanes.wait()
            return super().run(batch, cancel)

    engine = Together(lanes=2)
    room = room_of(engine)
    async with room.open():
        for _ in range(100):
            async with anyio.create_task_group() as group:
                group.start_soon(room.ask, window(0), ACME)
                group.start_soon(room.ask, window(1), ACME)
    assert engine.sizes == [1] * 200


@pytest.mark.parametrize("opened", [1, 2, 3])
async def test_a_room_fills_its_batches_however_often_it_was_opened(opened: int) -> None:
    engine = Watched(max_batch=4)
    room = room_of(engine)
    for _ in range(opened):
        engine.batches.clear()
        async with room.open():
            await Crowd(room, engine).behind_a_shut_gate([window(n) for n in range(5)])
    assert engine.sizes == [1, 4]


async def test_an_error_of_a_batch_is_narrowed_to_the_window_that_brings_it(logs: list[EventDict]) -> None:
    engine = Watched()
    first, before, broken, after = await heard_behind_a_gate(
        engine, [window(0), window(1), window(2, prompt="batch"), window(3)]
    )
    assert engine.sizes == [1, 3, 1, 1, 1]
    assert isinstance(broken, WindowError)
    assert "RuntimeError" in broken.detail
    assert [(log["event"], log["windows"]) for log in logs] == [("engine-failed", 3), ("engine-failed", 1)]
    assert [first, before, after] == [hear(MockEngine(Script(lines=LINES)), window(n).samples) for n in (0, 1, 3)]


async def test_a_window_alone_that_breaks_is_not_done_again() -> None:
    engine = Watched()
    room = room_of(engine)
    async with room.open():
        assert isinstance(await room.ask(window(prompt="batch"), ACME), WindowError)
        assert isinstance(await room.ask(window(), ACME), Draft)
    assert engine.sizes == [1, 1]


async def test_of_a_batch_that_broke_nothing_is_run_again_that_nobody_waits_for() -> None:
    engine = Watched()
    room = room_of(engine)
    scope = CancelScope()

    async def ask_under(scope: CancelScope, asked: Window) -> None:
        with scope:
            await room.ask(asked, ACME)

    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(room.ask, window(), ACME)
        await until(lambda: engine.sizes == [1])
        group.start_soon(ask_under, scope, window(1))
        group.start_soon(ask_under, CancelScope(), window(2, prompt="batch"))
        await until(lambda: room.statistics().ready == 2)
        engine.gate.set()
        await until(lambda: engine.sizes == [1])
        engine.gate.clear()
        await until(lambda: engine.sizes == [1, 2])
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        engine.gate.set()
    assert [len(batch) for batch in engine.batches] == [1, 2, 1]


async def test_an_error_that_the_engine_tells_of_one_window_is_that_windows_answer() -> None:
    answers = await heard_behind_a_gate(engine := Watched(), [window(0), window(1), window(2, prompt="window")])
    assert engine.sizes == [1, 2]
    assert [type(answer) for answer in answers] == [Draft, Draft, WindowError]


@pytest.mark.parametrize("company", [0, 2])
async def test_a_lost_engine_is_contained_by_nobody(company: int) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await heard_behind_a_gate(Watched(), [*map(window, range(company)), window(9, prompt="lost")])
    assert caught.value.subgroup(EngineLost)


async def test_an_engine_that_is_lost_while_a_batch_is_narrowed_is_lost() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await heard_behind_a_gate(Watched(), [window(0), window(1), window(2, prompt="once, then lost")])
    assert caught.value.subgroup(EngineLost)


async def test_a_batch_that_nobody_waits_for_is_told_to_stop_and_its_places_are_free() -> None:
    engine = Watched(max_batch=1)
    room = room_of(engine, memory_limit=1)
    async with room.open():
        for hung in range(1, 4):
            async with anyio.create_task_group() as group:
                group.start_soon(room.ask, window(prompt="hang"), ACME)
                await until(lambda: len(engine.batches) == hung)  # noqa: B023  # awaited before the loop goes on
                group.cancel_scope.cancel()
        with anyio.fail_after(10):
            assert isinstance(await room.ask(window(), ACME), Draft)


async def test_a_batch_goes_on_as_long_as_one_waits_for_it() -> None:
    engine = Watched()
    room = room_of(engine)
    first, second = CancelScope(), CancelScope()

    async def ask_under(scope: CancelScope, asked: Window) -> None:
        with scope:
            await room.ask(asked, ACME)

    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(room.ask, window(), ACME)
        await until(lambda: engine.sizes == [1])
        group.start_soon(ask_under, first, window(1, prompt="hang"))
        group.start_soon(ask_under, second, window(2, prompt="hang"))
        await until(lambda: room.statistics().ready == 2)
        engine.gate.set()
        await until(lambda: engine.sizes == [1, 2])
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not engine.flags[1].is_set()
        second.cancel()


async def test_a_window_that_nobody_waits_for_does_not_reach_the_engine() -> None:
    engine = Watched()
    room = room_of(engine)
    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(room.ask, window(), ACME)
        await until(lambda: engine.sizes == [1])
        async with anyio.create_task_group() as fickle:
            fickle.start_soon(room.ask, window(1), ACME)
            await until(lambda: room.statistics().ready == 1)
            fickle.cancel_scope.cancel()
        assert room.statistics().ready == 0
        engine.gate.set()
    assert engine.sizes == [1]


@pytest.mark.parametrize(("memory_limit", "places"), [(1, 4), (7 * 1024 + 1023, 5), (8 * 1024, 6)])
async def test_no_more_windows_are_prepared_than_memory_was_set_aside_for(memory_limit: int, places: int) -> None:
    """And a batch of places is kept for other tenants."""
    engine = Watched(max_batch=2, window_seconds=0.01)
    room = room_of(engine, memory_limit=memory_limit)
    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        crowd = Crowd(room, engine)
        for place in range(12):
            group.start_soon(crowd.ask, place, window(place))
        await until(lambda: engine.most_inside == places)
        engine.gate.set()
    assert len(crowd.answers) == 12
    assert engine.most_inside == places


async def test_a_window_that_is_still_to_be_read_is_read_when_there_is_room_for_it() -> None:
    engine = Watched(max_batch=2)
    room = room_of(engine, memory_limit=1)
    read: list[int] = []
    answers: dict[int, Draft | WindowError] = {}

    async def ask(place: int) -> None:
        async def reading() -> Window:
            read.append(place)
            return window(place)

        answers[place] = await room.ask(reading, ACME)

    async with room.open(), anyio.create_task_group() as group:
        engine.gate.clear()
        for place in range(12):
            group.start_soon(ask, place)
        await until(lambda: engine.prepared == 4)
        await anyio.wait_all_tasks_blocked()
        assert len(read) == 4
        engine.gate.set()
    assert sorted(read) == [*range(12)]
    assert answers == {place: hear(engine, window(place).samples) for place in range(12)}


@given(
    asked=st.lists(st.tuples(st.integers(0, 49), st.sampled_from([1, 5])), max_size=12),
    lanes=st.integers(1, 3),
    max_batch=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
async def test_a_window_is_answered_in_any_company_as_it_is_alone(
    asked: list[tuple[int, int]], lanes: int, max_batch: int
) -> None:
    engine = Watched(lanes=lanes, max_batch=max_batch)
    windows = [window(n, beam=beam) for n, beam in asked]
    room = room_of(engine, memory_limit=1)
    crowd = Crowd(room, engine)
    async with room.open(), anyio.create_task_group() as group:
        for place, one in enumerate(windows):
            group.start_soon(crowd.ask, place, one)
    alone = MockEngine(Script(lines=LINES))
    assert crowd.answers == {place: hear(alone, one.samples) for place, one in enumerate(windows)}
    assert all(size <= max_batch for size in engine.sizes)


async def test_the_room_counts_what_it_does() -> None:
    engine = Watched(max_batch=4)
    room = room_of(engine)
    async with room.open():
        await Crowd(room, engine).behind_a_shut_gate([window(n) for n in range(6)])
    told = room.statistics()
    assert (told.lanes, told.batches, told.windows, told.ready) == (1, 3, 6, 0)
    assert told.busy_seconds > 0


async def test_a_window_that_cannot_be_prepared_is_that_windows_error(logs: list[EventDict]) -> None:
    class Picky(MockEngine):
        def prepare(self, window: Window) -> Prepared:
            raise ValueError("not these samples")

    room = room_of(Picky())
    async with room.open():
        answer = await room.ask(window(), ACME)
    assert isinstance(answer, WindowError)
    assert [log["event"] for log in logs] == ["engine-failed"]
