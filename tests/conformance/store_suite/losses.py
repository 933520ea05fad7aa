"""What becomes of a job that has lost a worker: it is run alone, and not for ever."""

from __future__ import annotations

import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job, JobStatus, Tenant
from pipeline.store import Fenced, Store, TenantTerms, Tended
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    TRANSCRIPT,
    USAGE,
    Books,
    PassTime,
    Settle,
    begun,
    claim,
    every_settler,
    nothing_ready,
    submit,
)


async def lose(store: Store, tenant: Tenant = ACME) -> Job:
    """A job that has lost a worker."""
    job = await submit(store, tenant)
    taken = await store.queue().claim(replica="dead", lease_seconds=0.0)
    assert taken is not None
    assert taken.job.id == job.id
    await store.queue().tend()
    return job


async def alone(store: Store, *, idle: bool = True) -> Claim | None:
    return await store.queue().claim_alone(replica="one", lease_seconds=LEASE, idle=idle)


class TestJobsThatRunAlone:
    async def test_who_has_lost_no_worker_is_none_of_them(self, store: Store) -> None:
        await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)

        assert await alone(store) is None

    async def test_they_are_no_part_of_the_turn(self, store: Store) -> None:
        lost = await lose(store)
        behind = await submit(store, priority="low")

        assert (await claim(store)).job.id == behind.id
        assert await store.queue().claim(replica="one", lease_seconds=LEASE) is None
        taken = await alone(store)
        assert taken is not None
        assert (taken.job.id, taken.job.losses) == (lost.id, 1)
        assert (await store.queue().sweep()).repaired == 0

    async def test_nor_are_they_when_they_are_tried_again(self, store: Store, pass_time: PassTime) -> None:
        await lose(store)
        for retry_in in (0.0, 20.0):
            taken = await alone(store)
            assert taken is not None
            await store.queue().fail(taken, PROBLEM, retry_in=retry_in)
        assert await alone(store) is None
        await pass_time(30.0)
        assert await store.queue().tend() == Tended(due=1)

        assert await store.queue().claim(replica="one", lease_seconds=LEASE) is None
        assert await alone(store) is not None

    async def test_who_has_been_ready_for_longest_is_first(self, store: Store) -> None:
        first, second = await lose(store, GLOBEX), await lose(store)
        taken = await alone(store)
        assert taken is not None
        assert taken.job.id == first.id
        await store.queue().give_back(taken)

        served = [await alone(store), await alone(store)]
        assert [taken and taken.job.id for taken in served] == [second.id, first.id]

    async def test_a_replica_at_work_is_given_one_that_has_waited_for_a_minute_and_not_before(
        self, store: Store, pass_time: PassTime
    ) -> None:
        await lose(store)
        await pass_time(40.0)
        assert await alone(store, idle=False) is None
        await pass_time(30.0)
        assert await alone(store, idle=False) is not None

    async def test_only_one_replica_at_work_waits_to_be_alone(self, store: Store, pass_time: PassTime) -> None:
        for _ in range(3):
            await lose(store)
        await pass_time(70.0)
        taken = await alone(store, idle=False)
        assert taken is not None
        assert await alone(store, idle=False) is None
        assert await alone(store) is not None

        await store.queue().void_leases()
        await pass_time(70.0)
        taken = await alone(store, idle=False)
        assert taken is not None
        await store.queue().begin(taken)
        assert await alone(store, idle=False) is not None

    async def test_a_tenant_at_its_limit_waits_and_holds_nobody_up(self, store: Store) -> None:
        await lose(store)
        other = await lose(store, GLOBEX)
        await submit(store)
        await store.terms().set(TenantTerms(ACME, max_running=1))
        running = await claim(store)

        taken = await alone(store)
        assert taken is not None
        assert taken.job.id == other.id
        assert await alone(store) is None
        await store.queue().commit(running, TRANSCRIPT, USAGE)
        assert await alone(store) is not None
        await submit(store)
        assert await nothing_ready(store)

    async def test_they_are_charged_like_all_others(self, store: Store) -> None:
        await lose(store)
        await submit(store, ACME)
        await submit(store, GLOBEX)
        await alone(store)

        assert (await claim(store)).job.tenant == GLOBEX


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
