"""The store on PostgreSQL beside its model, the one in memory: the same courses of events, the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pipeline.store import Store
from pipeline.store.memory import MemoryStore
from tests.conformance.store_suite.courses import COURSES, SETTINGS, Step, World
from tests.conformance.store_suite.making import Books, OpenStore, PassTime
from tests.conformance.test_memory_store import Clock, MemoryBooks
from tests.postgres.conftest import wipe

pytestmark = pytest.mark.postgres

QUICK = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shorter course would take minutes to find
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store(SETTINGS) as store:
        yield store


async def agree(course: list[Step], real: World) -> None:
    clock = Clock()
    store = MemoryStore(settings=SETTINGS, clock=clock)
    model = World(store, clock.jump, MemoryBooks(store))
    for step in course:
        assert await real.do(step) == await model.do(step), step
        assert await real.view() == await model.view(), step
    await real.check()
    assert await real.standings() == await model.standings()
    assert await real.accounts() == await model.accounts()
    for world in (real, model):
        await world.serve()
        await world.wait(100.0)
    assert await real.deliver(None) == await model.deliver(None)
    assert await real.view() == await model.view()
    assert await real.costs() == await model.costs()
    await real.sweep()


@QUICK
@given(course=COURSES)
async def test_both_stores_answer_alike(
    course: list[Step], store: Store, pass_time: PassTime, books: Books, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await wipe(admin)
    await agree(course, World(store, pass_time, books))


@pytest.mark.full
@settings(QUICK, max_examples=200)
@given(course=COURSES)
async def test_both_stores_answer_alike_over_many_courses(
    course: list[Step], store: Store, pass_time: PassTime, books: Books, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await wipe(admin)
    await agree(course, World(store, pass_time, books))
