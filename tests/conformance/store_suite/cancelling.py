"""A job that its client no longer wants."""

from __future__ import annotations

from uuid import uuid4

import anyio
import pytest

from pipeline.errors import JobFinished, NotFound
from pipeline.jobs import JobStatus
from pipeline.store import Fenced, Renewal, Store
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    SECRET,
    SETTLERS,
    Books,
    Everything,
    PassTime,
    Settle,
    a_request,
    begun,
    claim,
    due,
    every_settler,
    nothing_ready,
    submit,
    upload,
)

HOOK = "https://app.test/hook"


class TestCancelAtTheDoor:
    async def test_a_waiting_job_is_cancelled_at_once(self, store: Store, everything: Everything) -> None:
        file = await upload(store, b"xxx")
        request = a_request(media_url=None, callback_url=f"https://app.test/hook?{SECRET}")
        job = await store.tenant(ACME).submit(request, uploads=[file])
        cancelled = await store.tenant(ACME).cancel(job.id)

        assert (cancelled.status, cancelled.error, cancelled.uploads) == (JobStatus.CANCELLED, None, ())
        assert cancelled.completed_at is not None
        assert cancelled == await store.tenant(ACME).get(job.id)
        assert await nothing_ready(store)
        assert "xxx" not in await everything()

    async def test_a_job_that_waits_for_its_retry_too(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=20.0)
        cancelled = await store.tenant(ACME).cancel(job.id)

        assert (cancelled.status, cancelled.next_attempt_at) == (JobStatus.CANCELLED, None)
        await pass_time(21.0)
        assert (await store.queue().tend()).due == 0
        assert await nothing_ready(store)

    async def test_the_worker_of_a_running_job_hears_of_it(self, store: Store) -> None:
        job = await submit(store)
        await submit(store)
        taken, other = await claim(store), await claim(store)
        asked = await store.tenant(ACME).cancel(job.id)

        assert asked.status is JobStatus.RUNNING
        renewal = await store.queue().renew([taken, other], lease_seconds=LEASE)
        assert renewal == Renewal(kept=frozenset({other.token}), cancelled=frozenset({taken.token}))

    async def test_a_worker_that_waits_for_it_hears_of_it_at_once(self, store: Store) -> None:
        job = await submit(store)
        await claim(store)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.queue().cancels)
                await store.tenant(ACME).cancel(job.id)

    async def test_cancelling_twice_is_the_same_as_once(self, store: Store) -> None:
        waiting, running = await submit(store, priority="low"), await submit(store)
        taken = await claim(store)
        for job in (waiting, running):
            once = await store.tenant(ACME).cancel(job.id)
            assert await store.tenant(ACME).cancel(job.id) == once
        await store.queue().cancel(taken)

        assert (await store.tenant(ACME).cancel(running.id)).status is JobStatus.CANCELLED

    @pytest.mark.parametrize("end", ["commit", "fail"])
    async def test_what_has_ended_otherwise_cannot_be_cancelled(self, store: Store, end: str) -> None:
        job = await submit(store)
        await SETTLERS[end](store.queue(), await claim(store))
        ended = await store.tenant(ACME).get(job.id)

        with pytest.raises(JobFinished, match=str(job.id)):
            await store.tenant(ACME).cancel(job.id)
        assert await store.tenant(ACME).get(job.id) == ended

    async def test_a_foreign_job_cannot_be_cancelled(self, store: Store) -> None:
        job = await submit(store)

        for absent in (job.id, uuid4()):
            with pytest.raises(NotFound, match=str(absent)):
                await store.tenant(GLOBEX).cancel(absent)
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.PENDING

    @every_settler
    async def test_however_its_worker_settles_it_ends_as_cancelled(
        self, store: Store, settle: Settle, everything: Everything, books: Books
    ) -> None:
        job = await submit(store, media_headers={"Authorization": SECRET}, callback_url=HOOK)
        taken = await claim(store)
        await store.queue().keep(taken, {b"a" * 16: '"kept"'})
        await store.tenant(ACME).cancel(job.id)
        for _ in range(2):
            await settle(store.queue(), taken)
        ended = await store.tenant(ACME).get(job.id)

        assert (ended.status, ended.error, ended.attempt) == (JobStatus.CANCELLED, None, 1)
        assert await store.tenant(ACME).transcript(job.id) is None
        assert SECRET not in await everything()
        assert await store.queue().kept(taken) == {}
        assert [used.outcome for used in await books.usage()] == ["cancelled"]
        assert len(await due(store)) == 1
        assert await nothing_ready(store)

    async def test_a_lost_worker_ends_it_too(self, store: Store, pass_time: PassTime, books: Books) -> None:
        job = await submit(store, callback_url=HOOK)
        taken = await begun(store)
        await store.tenant(ACME).cancel(job.id)
        await pass_time(LEASE + 1)
        await store.queue().tend()
        ended = await store.tenant(ACME).get(job.id)

        assert (ended.status, ended.error, ended.losses) == (JobStatus.CANCELLED, None, 0)
        assert [used.outcome for used in await books.usage()] == ["cancelled"]
        assert len(await due(store)) == 1
        assert await nothing_ready(store)
        with pytest.raises(Fenced):
            await store.queue().begin(taken)

    async def test_an_earlier_attempts_worker_does_not_end_it(self, store: Store) -> None:
        job = await submit(store)
        lost = await begun(store)
        await store.queue().void_leases()
        running = await begun(store)
        await store.tenant(ACME).cancel(job.id)

        with pytest.raises(Fenced):
            await store.queue().cancel(lost)
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.RUNNING
        await store.queue().cancel(running)
