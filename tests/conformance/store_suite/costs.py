"""What a job has cost is known, whatever becomes of it."""

from __future__ import annotations

import pytest

from pipeline.claim import Claim
from pipeline.store import JobQueue, Store
from tests.conformance.store_suite.making import (
    ACME,
    PROBLEM,
    SETTLERS,
    Books,
    PassTime,
    begun,
    claim,
    submit,
)

FIRST_SECONDS = 10.0  # what a tenant of whom nothing is known is charged for a job in advance


async def told(queue: JobQueue, taken: Claim, engine_seconds: float) -> None:
    """Its worker has told of so many by now, and says no more."""
    taken.engine_seconds = engine_seconds
    await queue.report([taken])


async def cost_of(books: Books) -> float:
    [account] = await books.accounts()
    return account.cost


async def engine_seconds(books: Books) -> float:
    [used] = await books.usage()
    return used.engine_seconds


class TestCosts:
    @pytest.mark.parametrize("spent", [0.0, 3.0, 45.0])
    async def test_a_running_job_that_is_deleted_costs_what_is_known_of_it(
        self, store: Store, books: Books, spent: float
    ) -> None:
        job = await submit(store)
        await told(store.queue(), await claim(store), spent)
        await store.tenant(ACME).delete(job.id)

        assert await engine_seconds(books) == spent
        assert await cost_of(books) == spent

    @pytest.mark.parametrize(("spent", "charged"), [(0.0, FIRST_SECONDS), (3.0, FIRST_SECONDS), (45.0, 45.0)])
    async def test_a_lost_attempt_costs_what_was_expected_or_what_is_known_to_be_more(
        self, store: Store, books: Books, spent: float, charged: float
    ) -> None:
        job = await submit(store)
        await told(store.queue(), await claim(store), spent)
        await store.queue().void_leases()
        await store.tenant(ACME).cancel(job.id)

        assert await engine_seconds(books) == spent
        assert await cost_of(books) == charged

    @pytest.mark.parametrize("end", ["commit", "fail", "cancel", "cancel at the door", "delete"])
    async def test_all_attempts_of_a_job_are_in_its_usage(self, store: Store, books: Books, end: str) -> None:
        job = await submit(store)
        for settle, spent in (("give_back", 1.0), ("retry", 2.0)):
            taken = await claim(store)
            taken.engine_seconds = spent
            await SETTLERS[settle](store.queue(), taken)
        await told(store.queue(), await claim(store), 4.0)
        await store.queue().void_leases()
        before = 7.0
        if end == "cancel at the door":
            await store.tenant(ACME).cancel(job.id)
        else:
            taken, before = await begun(store), 15.0
            await told(store.queue(), taken, 8.0)
            await (store.tenant(ACME).delete(job.id) if end == "delete" else SETTLERS[end](store.queue(), taken))

        assert await engine_seconds(books) == before

    @pytest.mark.parametrize("end", ["fail", "cancel", "delete"])
    async def test_how_long_a_job_took_is_told_of_its_last_attempt(
        self, store: Store, books: Books, pass_time: PassTime, end: str
    ) -> None:
        job = await submit(store)
        first = await claim(store)
        await pass_time(100.0)
        await store.queue().fail(first, PROBLEM, retry_in=0.0)
        taken = await claim(store)
        await pass_time(40.0)
        await (store.tenant(ACME).delete(job.id) if end == "delete" else SETTLERS[end](store.queue(), taken))

        [used] = await books.usage()
        assert 40.0 <= used.processing_seconds < 60.0

    async def test_how_long_a_job_took_is_told_of_one_that_is_cancelled_between_attempts(
        self, store: Store, books: Books, pass_time: PassTime
    ) -> None:
        job = await submit(store)
        for seconds in (100.0, 40.0):
            taken = await claim(store)
            await pass_time(seconds)
            await store.queue().fail(taken, PROBLEM, retry_in=0.0)
        await pass_time(100.0)
        await store.tenant(ACME).cancel(job.id)

        [used] = await books.usage()
        assert 40.0 <= used.processing_seconds < 60.0
