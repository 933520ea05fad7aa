"""The memory store against the suite of all stores, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.jobs import JobStatus
from pipeline.settings import QueueSettings
from pipeline.store.memory import MemoryStore
from tests.conformance.store_suite import *  # noqa: F403  # the suite
from tests.conformance.store_suite.courses import COURSES, SETTINGS, Step, World
from tests.conformance.store_suite.making import (
    ACME,
    LEASE,
    PROBLEM,
    Account,
    Books,
    Everything,
    OpenStore,
    PassTime,
    Tried,
    Used,
    claim,
    submit,
)


class Clock:
    """No two readings are alike, as on a real one: of two jobs one has been ready for longer."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1e-6
        return self.seconds

    async def jump(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pass_time(clock: Clock) -> PassTime:
    return clock.jump


@pytest.fixture
async def store(clock: Callable[[], float]) -> AsyncIterator[MemoryStore]:
    async with MemoryStore(clock=clock) as store:
        yield store


@pytest.fixture
def everything(store: MemoryStore) -> Everything:
    async def show() -> str:
        return repr((store.rows, store.files, store.keys, store.usage, store.deliveries))

    return show


@pytest.fixture
def open_store(clock: Clock) -> OpenStore:
    return lambda settings: MemoryStore(settings=settings, clock=clock)


class MemoryBooks:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def usage(self) -> list[Used]:
        return [
            Used(
                row.job,
                row.tenant,
                row.attempt,
                row.outcome,
                row.mode,
                row.model,
                row.usage.media_seconds if row.usage else 0.0,
                row.engine_seconds,
                row.processing_seconds,
            )
            for row in self._store.usage.values()
        ]

    async def accounts(self) -> list[Account]:
        places = sorted(self._store.turns.places.values(), key=lambda place: place.terms.tenant)
        return [
            Account(
                place.terms.tenant,
                place.ready,
                place.cost + sum(charge.delta for charge in place.charges) / place.terms.weight,
                place.usual_seconds,
            )
            for place in places
        ]

    async def tries(self) -> list[Tried]:
        deliveries = self._store.deliveries.values()
        return [Tried(row.job, each.number, each.status, each.error) for row in deliveries for each in row.log]

    async def strays(self) -> int:
        rows = self._store.rows.values()
        return sum((row.lease is not None) != (row.job.status is JobStatus.RUNNING) for row in rows)


@pytest.fixture
def books(store: MemoryStore) -> Books:
    return MemoryBooks(store)


ACTIONS = ("advance", "report", "fail", "give_back", "lose")


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0, 1)), max_size=90))
async def test_no_course_of_events_takes_progress_back_or_miscounts_attempts(steps: list[tuple[str, float]]) -> None:
    store, seen, counted = MemoryStore(settings=QueueSettings(max_attempts=100, max_losses=100)), 0.0, 1
    job = await submit(store)
    taken = await claim(store)
    for action, part in steps:
        match action:
            case "advance":
                taken.advance("transcribing", part)
            case "report":
                await store.queue().report([taken])
            case "fail":
                await store.queue().fail(taken, PROBLEM, retry_in=0.0)
            case "give_back":
                await store.queue().give_back(taken)
            case "lose":
                await store.queue().void_leases()
        if action in ("fail", "give_back", "lose"):
            taken = await claim(store)
            await store.queue().begin(taken)
            counted += action != "give_back"
        now = await store.tenant(ACME).get(job.id)
        assert now.attempt == counted
        assert now.progress.fraction >= seen
        seen = now.progress.fraction


async def run(course: list[Step]) -> None:
    clock = Clock()
    store = MemoryStore(settings=SETTINGS, clock=clock)
    world = World(store, clock.jump, MemoryBooks(store))
    for step in course:
        await world.do(step)
        await world.check()
    await world.serve()
    await world.check()


@settings(max_examples=100, deadline=None)
@given(COURSES)
async def test_no_course_of_events_breaks_a_rule(course: list[Step]) -> None:
    await run(course)


@pytest.mark.full
@settings(max_examples=1_000, deadline=None)
@given(COURSES)
async def test_a_thousand_courses_break_no_rule(course: list[Step]) -> None:
    await run(course)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_leases_follow_the_event_loops_own_clock() -> None:
    store = MemoryStore()
    await submit(store)
    await claim(store)
    assert (await store.queue().tend()).rescued == 0

    await anyio.sleep(LEASE + 1)
    assert (await store.queue().tend()).rescued == 1
