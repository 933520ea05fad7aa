"""What becomes of a job that has lost a worker: it is run alone, and not for ever."""

from __future__ import annotations

import pytest

from pipeline.jobs import JobStatus
from pipeline.store import Fenced, Store, Tended
from tests.conformance.store_suite.making import (
    ACME,
    LEASE,
    PROBLEM,
    Books,
    PassTime,
    Settle,
    begun,
    claim,
    every_settler,
    nothing_ready,
    submit,
)


class TestLosses:
    async def test_a_loss_is_counted_and_told_of(self, store: Store) -> None:
        job = await submit(store)
        await claim(store)
        await store.queue().void_leases()
        waiting = await store.tenant(ACME).get(job.id)

        assert (waiting.attempt, waiting.losses) == (1, 1)
        assert (await claim(store)).job.losses == 1

    async def test_lost_attempts_do_not_count_against_the_limit_of_the_others(self, store: Store) -> None:
        job = await submit(store)
        for _ in range(2):
            await begun(store)
            await store.queue().void_leases()
        for _ in range(2):
            await store.queue().fail(await begun(store), PROBLEM, retry_in=0.0)
            assert (await store.tenant(ACME).get(job.id)).status is JobStatus.PENDING
        await store.queue().fail(await begun(store), PROBLEM, retry_in=0.0)
        failed = await store.tenant(ACME).get(job.id)

        assert (failed.status, failed.error, failed.attempt, failed.losses) == (JobStatus.FAILED, PROBLEM, 5, 2)

    async def test_a_lease_that_is_lost_before_the_job_has_begun_costs_it_nothing(
        self, store: Store, pass_time: PassTime
    ) -> None:
        job = await submit(store)
        await claim(store)
        await store.queue().void_leases()
        before = await store.tenant(ACME).get(job.id)
        for _ in range(4):
            await claim(store)
            assert await nothing_ready(store)
            await pass_time(LEASE + 1)
            assert await store.queue().tend() == Tended(rescued=1)

        assert await store.tenant(ACME).get(job.id) == before

    async def test_once_begun_it_can_be_lost_again(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        await claim(store)
        await store.queue().void_leases()
        taken = await claim(store)
        await pass_time(LEASE - 1)
        await store.queue().renew([taken], lease_seconds=LEASE)
        for _ in range(2):
            await store.queue().begin(taken)
        await pass_time(LEASE + 1)
        await store.queue().tend()

        assert (await store.tenant(ACME).get(job.id)).losses == 2

    async def test_what_has_lost_its_lease_is_not_begun(self, store: Store) -> None:
        await submit(store)
        lost = await begun(store)
        await store.queue().void_leases()

        with pytest.raises(Fenced):
            await store.queue().begin(lost)
        again = await claim(store)
        with pytest.raises(Fenced):
            await store.queue().begin(lost)
        await store.queue().begin(again)

    @every_settler
    async def test_it_settles_like_any_other_begun_or_not(self, store: Store, settle: Settle) -> None:
        job = await submit(store)
        await claim(store)
        await store.queue().void_leases()
        await settle(store.queue(), await claim(store))

        assert (await store.tenant(ACME).get(job.id)).losses == 1

    async def test_a_job_that_is_lost_for_good_is_a_failed_one_in_the_books(self, store: Store, books: Books) -> None:
        job = await submit(store)
        for _ in range(3):
            await begun(store)
            await store.queue().void_leases()

        assert [(used.job, used.attempt, used.outcome) for used in await books.usage()] == [(job.id, 3, "failed")]
