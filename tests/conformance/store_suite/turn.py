"""Who is served, and when."""

from __future__ import annotations

from uuid import UUID

import anyio

from pipeline.jobs import JobStatus
from pipeline.store import Store
from tests.conformance.store_suite.making import ACME, LEASE, claim, nothing_ready, submit


class TestTheTurn:
    async def test_an_empty_store_has_no_work(self, store: Store) -> None:
        assert await nothing_ready(store)

    async def test_a_claim_is_a_running_job_whose_attempt_is_counted(self, store: Store) -> None:
        job = await submit(store)
        taken = await claim(store)

        assert taken.job.id == job.id
        assert taken.job == await store.tenant(ACME).get(job.id)
        assert (taken.job.status, taken.job.attempt) == (JobStatus.RUNNING, 1)
        assert taken.job.started_at is not None
        assert await nothing_ready(store)

    async def test_the_high_priority_goes_first_and_then_whoever_came_first(self, store: Store) -> None:
        asked = ["normal", "low", "high", "normal", "high"]
        ids = [(await submit(store, priority=priority)).id for priority in asked]
        served = [(await claim(store)).job.id for _ in asked]

        assert served == [ids[number] for number in (2, 4, 0, 3, 1)]

    async def test_many_claimers_share_the_jobs_and_none_is_claimed_twice(self, store: Store) -> None:
        ids = {(await submit(store)).id for _ in range(30)}
        served: list[UUID] = []

        async def work(replica: str) -> None:
            while taken := await store.queue().claim(replica=replica, lease_seconds=LEASE):
                served.append(taken.job.id)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(work, f"replica {number}")

        assert len(served) == 30
        assert set(served) == ids

    async def test_work_comes_at_once_with_a_submit_made_while_waiting(self, store: Store) -> None:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: store.queue().work(poll_seconds=3600))
                await submit(store)

    async def test_work_comes_at_once_with_a_submit_made_before_waiting(self, store: Store) -> None:
        await submit(store)
        with anyio.fail_after(5):
            await store.queue().work(poll_seconds=3600)

    async def test_without_news_work_is_looked_for_after_a_while(self, store: Store) -> None:
        with anyio.fail_after(5):
            for _ in range(3):
                await store.queue().work(poll_seconds=0.001)
