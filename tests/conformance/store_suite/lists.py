"""A tenant's jobs, page by page."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.jobs import Job, JobStatus, Tenant
from pipeline.store import Listing, Place, Store
from tests.conformance.store_suite.making import ACME, GLOBEX, TRANSCRIPT, USAGE, claim, submit


async def listed(store: Store, **listing: object) -> list[Job]:
    return list(await store.tenant(ACME).list(Listing(**{"limit": 50, **listing})))  # type: ignore[arg-type]  # by name


def behind(job: Job) -> Place:
    return Place(job.created_at, job.id)


class TestLists:
    async def test_the_newest_comes_first_and_none_of_others(self, store: Store) -> None:
        jobs = [await submit(store) for _ in range(3)]
        await submit(store, GLOBEX)

        assert await listed(store) == jobs[::-1]
        assert await listed(store, limit=2) == jobs[:0:-1]

    async def test_each_is_as_it_is_now(self, store: Store) -> None:
        job = await submit(store)
        taken = await claim(store)
        taken.advance("transcribing", 0.5)
        await store.queue().report([taken])
        assert await listed(store) == [await store.tenant(ACME).get(job.id)]

        await store.queue().commit(taken, TRANSCRIPT, USAGE)
        assert await listed(store) == [await store.tenant(ACME).get(job.id)]

    async def test_they_are_chosen_by_status_and_by_the_clients_own_id(self, store: Store) -> None:
        one, two, three = [await submit(store, external_id=name) for name in ("a", "b", "a")]
        running = (await claim(store)).job

        assert running.id == one.id
        assert await listed(store, status=JobStatus.PENDING) == [three, two]
        assert await listed(store, status=JobStatus.RUNNING) == [running]
        assert await listed(store, external_id="a") == [three, running]
        assert await listed(store, external_id="a", status=JobStatus.PENDING) == [three]
        assert await listed(store, external_id="c") == []

    async def test_the_ends_of_a_time_are_not_in_it(self, store: Store) -> None:
        one, two, three = [await submit(store) for _ in range(3)]

        assert await listed(store, created_after=one.created_at) == [three, two]
        assert await listed(store, created_before=three.created_at) == [two, one]
        assert await listed(store, created_after=one.created_at, created_before=three.created_at) == [two]
        assert await listed(store, created_after=three.created_at + timedelta(days=1)) == []

    async def test_a_page_begins_behind_its_place_though_that_job_is_gone(self, store: Store) -> None:
        one, two, three = [await submit(store) for _ in range(3)]
        await store.tenant(ACME).delete(two.id)

        assert await listed(store, after=behind(two)) == [one]
        assert await listed(store, after=behind(one)) == []
        assert await listed(store, after=behind(three)) == [one]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(size=st.integers(0, 12), limit=st.integers(1, 5), added=st.lists(st.integers(0, 2), max_size=12))
    async def test_pages_have_no_gaps_and_no_doubles_while_jobs_are_added(
        self, store: Store, size: int, limit: int, added: list[int]
    ) -> None:
        tenant = Tenant(f"tenant-{uuid4()}")
        there = [await submit(store, tenant) for _ in range(size)]
        pages: list[Job] = []
        after, more = None, iter(added)
        while page := await store.tenant(tenant).list(Listing(limit=limit, after=after)):
            assert len(page) <= limit
            pages += page
            after = behind(page[-1])
            for _ in range(next(more, 0)):
                await submit(store, tenant)

        assert pages == there[::-1]
