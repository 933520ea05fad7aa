"""A room in which nobody asks: freed memory is given back, and the model sleeps until it is wanted."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from pipeline.errors import EngineLost
from stages.engines import LOADING_SECONDS, CancelFlag, Draft, WindowError
from stages.engines.mock import Prepared
from stages.engines.room import ModelRoom
from tests.stages.asking import ACME, Watched, room_of, window
from tests.stages.waiting import at_mock_time

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

# Megabytes kept, and left after a room was quiet. Pieces of 48 MiB are freed under one that stays.
GIVING_BACK = """
import anyio, ctypes
from pathlib import Path
from stages.engines.allocator import keep_freed_memory
from tests.stages.asking import Watched, room_of
from tests.stages.waiting import at_mock_time

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

async def main():
    async with room_of(Watched()).open():
        await anyio.sleep(4)
        print(resident() - before)
        await anyio.sleep(4)

keep_freed_memory()
pieces = [libc.malloc(48 << 20) for _ in range(4)]
before = resident()
for piece in pieces:
    ctypes.memset(piece, 1, 48 << 20)
    libc.free(piece)
at_mock_time(main)
print(resident() - before)
"""


class Sleeper(Watched):
    """Breaks when it is run, unloaded or reloaded at the wrong time; sleeps and wakes behind gates."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = True
        self.story: list[str] = []
        self.falling_asleep, self.waking = threading.Event(), threading.Event()
        self.falling_asleep.set()
        self.waking.set()

    def unload(self) -> None:
        assert self.loaded
        self.story.append("unload")
        self.falling_asleep.wait(30)
        self.loaded = False

    def reload(self) -> None:
        assert not self.loaded
        self.story.append("reload")
        self.waking.wait(30)
        self.loaded = True

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        if not self.loaded:
            raise EngineLost("run without a model")
        self.story.append("run")
        return super().run(batch, cancel)


def idle(engine: Sleeper) -> ModelRoom:
    return room_of(engine, idle_unload_seconds=60)


def is_loaded(room: ModelRoom) -> bool:
    return room.statistics().loaded_since is not None


def on_a_clock(test: Callable[[Sleeper, ModelRoom], Awaitable[None]]) -> Callable[[], None]:
    def at_once() -> None:
        async def main() -> None:
            engine = Sleeper()
            await test(engine, idle(engine))

        at_mock_time(main)

    at_once.__name__ = test.__name__
    return at_once


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_freed_memory_is_given_back_when_nobody_has_asked_for_a_while() -> None:
    told = subprocess.run([sys.executable, "-c", GIVING_BACK], capture_output=True, text=True, check=True)
    kept, left = map(int, told.stdout.split())
    assert kept > 150
    assert left < 20


@on_a_clock
async def test_the_model_leaves_after_its_time_without_work_and_returns_for_the_next_window(
    engine: Sleeper, room: ModelRoom
) -> None:
    async with room.open():
        assert isinstance(await room.ask(window(), ACME), Draft)
        await anyio.sleep(59)
        assert (engine.story, is_loaded(room)) == (["run"], True)
        await asleep(engine, room)
        assert engine.story == ["run", "unload"]
        assert isinstance(await room.ask(window(), ACME), Draft)
        assert is_loaded(room)
        await asleep(engine, room)
    assert engine.story == ["run", "unload", "reload", "run", "unload"]


@on_a_clock
async def test_each_window_begins_the_time_anew(engine: Sleeper, room: ModelRoom) -> None:
    async with room.open():
        for _ in range(5):
            await anyio.sleep(50)
            await room.ask(window(), ACME)
    assert engine.story == ["run"] * 5


def test_without_a_time_the_model_stays() -> None:
    async def main() -> None:
        engine = Sleeper()
        async with room_of(engine).open():
            await anyio.sleep(80_000)
        assert engine.story == []

    at_mock_time(main)


@on_a_clock
async def test_the_model_stays_while_a_batch_runs_that_nobody_waits_for(engine: Sleeper, room: ModelRoom) -> None:
    engine.gate.clear()
    async with room.open():
        async with anyio.create_task_group() as group:
            group.start_soon(room.ask, window(), ACME)
            await soon(lambda: engine.story == ["run"])
            group.cancel_scope.cancel()
        await anyio.sleep(1000)
        assert engine.story == ["run"]
        engine.gate.set()
        await asleep(engine, room)


@on_a_clock
async def test_a_window_that_comes_while_the_model_leaves_waits_for_its_return(
    engine: Sleeper, room: ModelRoom
) -> None:
    engine.falling_asleep.clear()
    async with room.open(), anyio.create_task_group() as group:
        await anyio.sleep(61)
        await soon(lambda: engine.story == ["unload"])
        group.start_soon(room.ask, window(), ACME)
        await soon(lambda: room.statistics().ready == 1)
        assert engine.story == ["unload"]
        engine.falling_asleep.set()
    assert engine.story == ["unload", "reload", "run"]


@on_a_clock
async def test_windows_are_prepared_while_the_model_comes_back(engine: Sleeper, room: ModelRoom) -> None:
    async with room.open(), anyio.create_task_group() as group:
        await asleep(engine, room)
        engine.waking.clear()
        for n in range(6):
            group.start_soon(room.ask, window(n), ACME)
        await soon(lambda: room.statistics().ready == 6)
        assert not is_loaded(room)
        engine.waking.set()
    assert engine.sizes == [6]


@on_a_clock
async def test_the_model_comes_back_though_who_wanted_it_has_gone(engine: Sleeper, room: ModelRoom) -> None:
    async with room.open():
        await asleep(engine, room)
        engine.waking.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(room.ask, window(), ACME)
            await soon(lambda: room.statistics().ready == 1)
            group.cancel_scope.cancel()
        engine.waking.set()
        await soon(lambda: is_loaded(room))
        await asleep(engine, room)
    assert engine.story == ["unload", "reload", "unload"]


@on_a_clock
async def test_a_room_that_was_closed_without_its_model_brings_it_back_when_it_is_opened_again(
    engine: Sleeper, room: ModelRoom
) -> None:
    async with room.open():
        await asleep(engine, room)
    async with room.open():
        assert isinstance(await room.ask(window(), ACME), Draft)
    assert engine.story == ["unload", "reload", "run"]


@on_a_clock
async def test_a_model_that_does_not_come_back_in_its_time_hangs(engine: Sleeper, room: ModelRoom) -> None:
    async with room.open(), anyio.create_task_group() as group:
        await asleep(engine, room)
        engine.waking.clear()
        group.start_soon(room.ask, window(), ACME)
        await soon(lambda: engine.story == ["unload", "reload"])
        await anyio.sleep(LOADING_SECONDS - 1)
        assert not room.hangs(1)
        await anyio.sleep(2)
        assert room.hangs(1)
        engine.waking.set()
    assert not room.hangs(1)


async def asleep(engine: Sleeper, room: ModelRoom) -> None:
    """The clock jumps on until the model has left."""
    await _until(lambda: not engine.loaded and not is_loaded(room), partial(anyio.sleep, 1))


async def soon(true: Callable[[], bool]) -> None:
    """Threads work on while the clock stands still."""
    await _until(true, anyio.lowlevel.checkpoint)


async def _until(true: Callable[[], bool], turn: Callable[[], Awaitable[None]]) -> None:
    tired = time.monotonic() + 30
    while not true():
        assert time.monotonic() < tired
        await turn()
