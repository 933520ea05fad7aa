"""How long an ended job is kept, and how the queue does meanwhile."""

from __future__ import annotations

import pytest

from pipeline.errors import NotFound
from pipeline.settings import QueueSettings
from pipeline.store import Standing, Store, Swept, TenantTerms
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    SAID,
    TRANSCRIPT,
    USAGE,
    Books,
    Everything,
    OpenStore,
    PassTime,
    Settle,
    begun,
    claim,
    every_end,
    submit,
)


class TestRetention:
    @every_end
    async def test_an_ended_job_is_kept_for_its_time_and_its_usage_longer(
        self, store: Store, settle: Settle, pass_time: PassTime, everything: Everything, books: Books
    ) -> None:
        job = await submit(store, retention_seconds=600)
        await pass_time(1000)
        await settle(store.queue(), await claim(store))
        await pass_time(590)
        assert await store.queue().sweep() == Swept()
        await store.tenant(ACME).get(job.id)

        await pass_time(20)
        assert await store.queue().sweep() == Swept(expired=1)
        with pytest.raises(NotFound):
            await store.tenant(ACME).get(job.id)
        assert SAID.text[:5] not in await everything()
        assert len(await books.usage()) == 1

    async def test_one_that_was_cancelled_at_the_door_too(self, store: Store, pass_time: PassTime) -> None:
        await store.tenant(ACME).cancel((await submit(store, retention_seconds=0)).id)

        assert await store.queue().sweep() == Swept(expired=1)

    async def test_what_has_not_ended_is_kept(self, store: Store, pass_time: PassTime) -> None:
        waiting, running = await submit(store, retention_seconds=0), await submit(store, retention_seconds=0)
        await claim(store)
        await pass_time(10)

        assert await store.queue().sweep() == Swept()
        assert len({(await store.tenant(ACME).get(job.id)).id for job in (waiting, running)}) == 2

    async def test_nobody_said_how_long_so_for_ever(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        await pass_time(1e8)

        assert await store.queue().sweep() == Swept()
        assert await store.tenant(ACME).transcript(job.id) == TRANSCRIPT

    async def test_settings_say_it_for_those_who_do_not(self, open_store: OpenStore, pass_time: PassTime) -> None:
        async with open_store(QueueSettings(retention_seconds=600)) as store:
            short, usual, long = [await submit(store, retention_seconds=seconds) for seconds in (60, None, 6000)]
            for _ in range(3):
                await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
            for passed, gone in ((61, short), (600, usual)):
                await pass_time(passed)
                assert await store.queue().sweep() == Swept(expired=1)
                with pytest.raises(NotFound):
                    await store.tenant(ACME).get(gone.id)
            await store.tenant(ACME).get(long.id)


class TestStanding:
    async def test_nothing_is_there(self, store: Store) -> None:
        assert await store.tenant(ACME).standing() == Standing(pending=0, running=0)

    async def test_a_tenant_sees_its_own_jobs(self, store: Store, pass_time: PassTime) -> None:
        await submit(store)
        await claim(store)
        await submit(store)
        await pass_time(30)
        await submit(store)
        await submit(store, GLOBEX)
        standing = await store.tenant(ACME).standing()

        assert (standing.pending, standing.running) == (2, 1)
        assert standing.oldest_seconds is not None
        assert 30 <= standing.oldest_seconds < 60
        assert standing.starts_in is not None
        assert standing.starts_in > 0

    async def test_a_job_that_waits_for_its_retry_is_pending_and_in_no_turn(self, store: Store) -> None:
        await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=20.0)

        assert await store.tenant(ACME).standing() == Standing(pending=1, running=0)

    async def test_nobody_knows_when_a_job_starts_where_none_was_begun_lately(
        self, store: Store, pass_time: PassTime
    ) -> None:
        await submit(store)
        standing = await store.tenant(ACME).standing()
        assert (standing.ahead, standing.starts_in) == (0, None)

        await submit(store)
        await claim(store)
        assert (await store.tenant(ACME).standing()).starts_in is not None
        await pass_time(301)
        assert (await store.tenant(ACME).standing()).starts_in is None

    async def test_it_is_known_how_many_are_served_before(self, store: Store) -> None:
        for tenant in (ACME, GLOBEX):
            await submit(store, tenant)
            await submit(store, tenant)
        assert [(await store.tenant(tenant).standing()).ahead for tenant in (ACME, GLOBEX)] == [0, 1]

        assert (await claim(store)).job.tenant == ACME
        assert [(await store.tenant(tenant).standing()).ahead for tenant in (ACME, GLOBEX)] == [1, 0]

    async def test_who_runs_as_many_as_it_may_has_no_place_until_one_has_ended(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_running=1))
        for tenant in (ACME, ACME, GLOBEX):
            await submit(store, tenant)
        running = await claim(store)
        standing = await store.tenant(ACME).standing()
        assert (standing.pending, standing.running, standing.ahead, standing.starts_in) == (1, 1, None, None)

        await store.queue().commit(running, TRANSCRIPT, USAGE)
        standing = await store.tenant(ACME).standing()
        assert standing.pending == 1
        assert None not in (standing.ahead, standing.starts_in)


class TestHealth:
    async def test_an_empty_queue_is_all_zeros(self, store: Store) -> None:
        health = await store.queue().health()

        assert (health.pending, health.waiting, health.running, health.tenants) == (0, 0, 0, 0)
        assert (health.oldest_seconds, health.late_seconds) == (0.0, 0.0)
        assert (health.started, health.retried, health.lost, health.failed) == (0, 0, 0, 0)
        assert (health.wait_seconds_p50, health.wait_seconds_p99) == (0.0, 0.0)

    async def test_it_counts_what_waits_and_what_runs(self, store: Store, pass_time: PassTime) -> None:
        for _ in range(3):
            await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=1000.0)
        await claim(store, lease=60.0)
        await submit(store, GLOBEX)
        await pass_time(100)
        health = await store.queue().health()

        assert (health.pending, health.waiting, health.running, health.tenants) == (2, 1, 1, 2)
        assert 100 <= health.oldest_seconds < 130
        assert 40 <= health.late_seconds < 70

    async def test_it_knows_what_went_wrong_lately(self, store: Store, pass_time: PassTime) -> None:
        for _ in range(3):
            await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=1000.0)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=None)
        await claim(store)
        await pass_time(LEASE + 1)
        await store.queue().tend()
        await begun(store)
        health = await store.queue().health()

        assert (health.started, health.retried, health.lost, health.failed) == (4, 1, 1, 1)
        await pass_time(300)
        later = await store.queue().health()
        assert (later.started, later.retried, later.lost, later.failed) == (0, 0, 0, 0)

    async def test_it_knows_how_long_jobs_waited(self, store: Store, pass_time: PassTime) -> None:
        await submit(store)
        await pass_time(200)
        await submit(store)
        await submit(store)
        for _ in range(3):
            await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        health = await store.queue().health()

        assert 0 <= health.wait_seconds_p50 < 30
        assert 190 < health.wait_seconds_p99 < 230
