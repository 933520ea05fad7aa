"""How many jobs of a tenant may wait, and what the operator says about it."""

from __future__ import annotations

import anyio
import pytest

from pipeline.errors import QuotaExceeded
from pipeline.settings import QueueSettings
from pipeline.store import Store, TenantTerms
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    PROBLEM,
    OpenStore,
    claim,
    nothing_ready,
    submit,
)


class TestQuotas:
    async def test_no_more_wait_than_may(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_pending=2))
        jobs = [await submit(store), await submit(store)]
        with pytest.raises(QuotaExceeded, match="2 jobs"):
            await submit(store)
        await submit(store, GLOBEX)

        await store.tenant(ACME).cancel(jobs[0].id)
        await submit(store)
        with pytest.raises(QuotaExceeded):
            await submit(store)

    async def test_of_many_at_once_no_more_wait_than_may(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_pending=3))
        refused: list[QuotaExceeded] = []

        async def send() -> None:
            try:
                await submit(store)
            except QuotaExceeded as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(send)

        assert (len(refused), (await store.tenant(ACME).standing()).pending) == (17, 3)

    async def test_running_jobs_do_not_wait_and_retries_do(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_pending=1))
        await submit(store)
        taken = await claim(store)
        await submit(store)
        await store.tenant(ACME).cancel((await claim(store)).job.id)
        await store.queue().fail(taken, PROBLEM, retry_in=20.0)

        with pytest.raises(QuotaExceeded):
            await submit(store)

    async def test_a_refused_job_is_not_there(self, store: Store) -> None:
        await store.terms().set(TenantTerms(ACME, max_pending=0))
        with pytest.raises(QuotaExceeded):
            await submit(store)

        assert await nothing_ready(store)

    async def test_the_settings_hold_where_a_tenants_terms_say_nothing(self, open_store: OpenStore) -> None:
        async with open_store(QueueSettings(max_pending=1, max_running=1)) as store:
            await store.terms().set(TenantTerms(GLOBEX, max_pending=3, max_running=2))
            for tenant, waiting, running in ((ACME, 1, 1), (GLOBEX, 3, 2)):
                for _ in range(waiting):
                    await submit(store, tenant)
                with pytest.raises(QuotaExceeded):
                    await submit(store, tenant)
                for _ in range(running):
                    assert (await claim(store)).job.tenant == tenant
                await submit(store, tenant)
                assert await nothing_ready(store)

    async def test_settings_may_set_no_limit(self, open_store: OpenStore) -> None:
        async with open_store(QueueSettings(max_pending=None)) as store:
            for _ in range(3):
                await submit(store)


class TestTerms:
    async def test_whoever_was_seen_is_listed_by_name(self, store: Store) -> None:
        assert await store.terms().list() == []
        await submit(store, GLOBEX)
        await submit(store, ACME)

        assert await store.terms().list() == [TenantTerms(ACME), TenantTerms(GLOBEX)]

    async def test_terms_are_as_they_were_set_last(self, store: Store) -> None:
        await submit(store)
        for terms in (TenantTerms(ACME, 0.5, 3, 4), TenantTerms(GLOBEX, 2.0), TenantTerms(ACME, max_running=0)):
            await store.terms().set(terms)
            assert terms in await store.terms().list()

        assert await store.terms().list() == [TenantTerms(ACME, max_running=0), TenantTerms(GLOBEX, 2.0)]
