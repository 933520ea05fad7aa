"""What is told when a job has ended: its event to the client, and its cost to the books, once each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.jobs import JobStatus
from pipeline.store import Delivery, Store
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    SECRET,
    SETTLERS,
    TRANSCRIPT,
    USAGE,
    Books,
    Everything,
    PassTime,
    Settle,
    Tried,
    Used,
    begun,
    claim,
    due,
    every_end,
    submit,
)

HOOK = f"https://app.test/hook?key={SECRET}"
OUTCOMES = {"commit": "completed", "fail": "failed", "cancel": "cancelled"}


async def told(store: Store) -> Delivery:
    """The delivery of a job that was cancelled at the door."""
    job = await submit(store, callback_url=HOOK)
    await store.tenant(ACME).cancel(job.id)
    (delivery,) = await due(store)
    return delivery


class TestTheOutbox:
    @pytest.mark.parametrize("end", OUTCOMES)
    async def test_an_end_is_told_once_and_without_a_word_of_the_transcript(self, store: Store, end: str) -> None:
        job = await submit(store, callback_url=HOOK, external_id="call 8841")
        taken = await claim(store)
        for _ in range(2):
            await SETTLERS[end](store.queue(), taken)
        (delivery,) = await due(store)

        assert (delivery.tenant, delivery.job, delivery.url, delivery.tries) == (ACME, job.id, HOOK, 1)
        body = json.loads(delivery.body)
        assert body["type"] == f"job.{OUTCOMES[end]}"
        assert body["data"] == {
            "job_id": str(job.id),
            "status": OUTCOMES[end],
            "external_id": "call 8841",
            "links": {
                "self": f"/v1/jobs/{job.id}",
                **{name: f"/v1/jobs/{job.id}/{name}" for name in ("transcript", "cancel")},
            },
        }

    async def test_every_other_end_is_told_too(self, store: Store) -> None:
        cancelled, lost = await submit(store, callback_url=HOOK), await submit(store, GLOBEX, callback_url=HOOK)
        await store.tenant(ACME).cancel(cancelled.id)
        for _ in range(3):
            await begun(store)
            await store.queue().void_leases()

        types = {delivery.job: json.loads(delivery.body)["type"] for delivery in await due(store)}
        assert types == {cancelled.id: "job.cancelled", lost.id: "job.failed"}

    async def test_nothing_is_told_of_a_job_that_goes_on_or_that_nobody_asked_about(self, store: Store) -> None:
        await submit(store)
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        await submit(store, callback_url=HOOK)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)
        await store.queue().give_back(await claim(store))
        await claim(store)
        await store.queue().void_leases()

        assert await due(store) == []

    async def test_the_callback_goes_to_no_worker_and_not_back_to_the_door(self, store: Store) -> None:
        job = await submit(store, callback_url=HOOK)

        assert job.request.callback_url == "https://app.test/hook"
        assert SECRET not in repr((await claim(store)).job)

    async def test_a_delivery_that_nobody_tells_of_comes_again(self, store: Store, pass_time: PassTime) -> None:
        first = await told(store)
        assert await due(store) == []
        await pass_time(LEASE + 1)
        (second,) = await due(store)

        assert (second.id, second.tries) == (first.id, 2)

    async def test_tenants_that_are_left_out_wait_untried(self, store: Store) -> None:
        jobs = {tenant: await submit(store, tenant, callback_url=HOOK) for tenant in (ACME, GLOBEX)}
        for tenant, job in jobs.items():
            await store.tenant(tenant).cancel(job.id)

        taken = await store.outbox().due(limit=9, lease_seconds=LEASE, besides=[ACME])
        assert [(delivery.tenant, delivery.tries) for delivery in taken] == [(GLOBEX, 1)]
        assert [(delivery.tenant, delivery.tries) for delivery in await due(store)] == [(ACME, 1)]

    async def test_a_delivery_says_the_same_at_every_try(self, store: Store) -> None:
        first = await told(store)
        await store.outbox().tried(first, seconds=0.5, status=503, error=None, retry_in=0.0)

        assert await due(store) == [replace(first, tries=2)]

    async def test_a_failed_try_is_repeated_after_its_pause(self, store: Store, pass_time: PassTime) -> None:
        first = await told(store)
        await store.outbox().tried(first, seconds=0.5, status=503, error=None, retry_in=300.0)
        await pass_time(290)
        assert await due(store) == []
        await pass_time(20)
        (second,) = await due(store)

        assert (second.id, second.tries) == (first.id, 2)

    @pytest.mark.parametrize(("status", "error"), [(204, None), (410, None), (None, "refused")])
    async def test_what_is_done_with_is_done_with_and_its_address_erased(
        self,
        store: Store,
        pass_time: PassTime,
        everything: Everything,
        status: int | None,
        error: str | None,
    ) -> None:
        delivery = await told(store)
        await store.outbox().tried(delivery, seconds=0.5, status=status, error=error, retry_in=None)
        await pass_time(3600)

        assert await due(store) == []
        assert SECRET not in await everything()

    async def test_every_try_is_logged(self, store: Store, pass_time: PassTime, books: Books) -> None:
        first = await told(store)
        await store.outbox().tried(first, seconds=0.5, status=None, error="timeout", retry_in=5.0)
        await pass_time(6)
        (second,) = await due(store)
        await store.outbox().tried(second, seconds=0.5, status=200, error=None, retry_in=None)

        assert await books.tries() == [Tried(first.job, 1, None, "timeout"), Tried(first.job, 2, 200, None)]

    async def test_so_many_are_taken_as_are_wanted_and_those_first_that_wait_longest(
        self, store: Store, pass_time: PassTime
    ) -> None:
        jobs = []
        for _ in range(3):
            jobs.append((await submit(store, callback_url=HOOK)).id)
            await store.tenant(ACME).cancel(jobs[-1])
            await pass_time(1)

        assert [delivery.job for delivery in await due(store, limit=2)] == jobs[:2]
        assert [delivery.job for delivery in await due(store, limit=2)] == jobs[2:]

    async def test_tenants_may_be_passed_over(self, store: Store) -> None:
        for tenant in (ACME, GLOBEX):
            await store.tenant(tenant).cancel((await submit(store, tenant, callback_url=HOOK)).id)

        assert [delivery.tenant for delivery in await due(store, besides=[ACME])] == [GLOBEX]
        assert [delivery.tenant for delivery in await due(store)] == [ACME]

    async def test_it_is_told_though_the_job_was_kept_for_less(self, store: Store) -> None:
        job = await submit(store, callback_url=HOOK, retention_seconds=0)
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        assert (await store.queue().sweep()).expired == 1

        assert [delivery.job for delivery in await due(store)] == [job.id]

    async def test_nothing_is_told_of_a_job_that_is_deleted(self, store: Store, everything: Everything) -> None:
        kept = await submit(store, callback_url=HOOK)
        gone = await submit(store, callback_url=HOOK, external_id="call 8841")
        for _ in range(2):
            await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        await store.tenant(ACME).delete(gone.id)

        assert "call 8841" not in await everything()
        assert [delivery.job for delivery in await due(store)] == [kept.id]

    @pytest.mark.parametrize("retry_in", [None, 0.0], ids=["done", "again"])
    async def test_a_try_whose_job_is_deleted_meanwhile_leaves_no_trace(
        self, store: Store, everything: Everything, books: Books, retry_in: float | None
    ) -> None:
        delivery = await told(store)
        await store.tenant(ACME).delete(delivery.job)
        await store.outbox().tried(delivery, seconds=0.5, status=503, error=None, retry_in=retry_in)

        assert (await due(store), await books.tries()) == ([], [])
        assert SECRET not in await everything()


class TestUsage:
    @every_end
    async def test_an_end_is_written_down_once(self, store: Store, settle: Settle, books: Books) -> None:
        job = await submit(store, processing_mode="multitrack")
        for attempt, cost in ((SETTLERS["give_back"], 1.5), (SETTLERS["retry"], 0.5)):
            taken = await claim(store)
            taken.engine_seconds = cost
            await attempt(store.queue(), taken)
        assert await books.usage() == []
        taken = await claim(store)
        taken.engine_seconds = 2.5
        for _ in range(2):
            await settle(store.queue(), taken)

        ended = (await store.tenant(ACME).get(job.id)).status
        completed = ended is JobStatus.COMPLETED
        assert await books.usage() == [
            Used(
                job=job.id,
                tenant=ACME,
                attempt=2,
                outcome=ended,
                mode="multitrack",
                model="mock" if completed else None,
                media_seconds=USAGE.media_seconds if completed else 0.0,
                engine_seconds=4.5,
            )
        ]

    async def test_a_job_that_never_ran_has_cost_nothing(self, store: Store, books: Books) -> None:
        job = await submit(store)
        for _ in range(2):
            await store.tenant(ACME).cancel(job.id)

        assert await books.usage() == [Used(job.id, ACME, 0, "cancelled", "downmix", None, 0.0, 0.0)]
