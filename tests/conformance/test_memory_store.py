"""The memory store against the suite of all stores, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import pytest
import trio.testing

from pipeline.store.memory import MemoryStore
from tests.conformance.store_suite import *  # noqa: F403  # the suite
from tests.conformance.store_suite.making import LEASE, PassTime, claim, submit


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pass_time(clock: Clock) -> PassTime:
    async def jump(seconds: float) -> None:
        clock.seconds += seconds

    return jump


@pytest.fixture
async def store(clock: Callable[[], float]) -> AsyncIterator[MemoryStore]:
    async with MemoryStore(clock=clock) as store:
        yield store


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_leases_follow_the_event_loops_own_clock() -> None:
    store = MemoryStore()
    await submit(store)
    await claim(store)
    assert await store.queue().rescue() == 0

    await anyio.sleep(LEASE + 1)
    assert await store.queue().rescue() == 1
