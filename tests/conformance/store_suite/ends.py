"""How an attempt ends: in one way, once."""

from __future__ import annotations

import anyio
import pytest

from pipeline.claim import Claim
from pipeline.jobs import JobStatus
from pipeline.store import Fenced, Store, Tended
from tests.conformance.store_suite.making import (
    ACME,
    PROBLEM,
    SECRET,
    SETTLERS,
    TRANSCRIPT,
    USAGE,
    Everything,
    PassTime,
    Settle,
    claim,
    every_end,
    every_settler,
    nothing_ready,
    submit,
)


class TestTheEndOfAnAttempt:
    async def test_a_committed_job_is_completed_and_has_its_transcript(self, store: Store) -> None:
        job = await submit(store)
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        done = await store.tenant(ACME).get(job.id)

        assert done.status is JobStatus.COMPLETED
        assert done.completed_at is not None
        assert done.started_at is not None
        assert (done.usage, done.warnings, done.error) == (USAGE, TRANSCRIPT.warnings, None)
        assert done.progress.fraction == 1.0
        assert await store.tenant(ACME).transcript(job.id) == TRANSCRIPT
        assert await nothing_ready(store)

    async def test_a_failure_for_good_is_the_jobs_error(self, store: Store) -> None:
        job = await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=None)
        failed = await store.tenant(ACME).get(job.id)

        assert (failed.status, failed.error, failed.attempt) == (JobStatus.FAILED, PROBLEM, 1)
        assert failed.completed_at is not None
        assert await nothing_ready(store)

    async def test_a_job_that_is_given_back_may_have_to_wait_too_and_its_attempt_is_not_counted(
        self, store: Store, pass_time: PassTime
    ) -> None:
        job = await submit(store)
        await store.queue().give_back(await claim(store), retry_in=20.0)
        waiting = await store.tenant(ACME).get(job.id)

        assert (waiting.status, waiting.attempt, waiting.last_error) == (JobStatus.PENDING, 0, None)
        assert await nothing_ready(store)
        assert (await store.queue().tend()).due == 0
        await pass_time(21.0)
        assert (await store.queue().tend()).due == 1
        assert (await claim(store)).job.attempt == 1

    async def test_a_retry_waits_its_time_and_keeps_its_attempt(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        await store.queue().fail(await claim(store), PROBLEM, retry_in=20.0)
        waiting = await store.tenant(ACME).get(job.id)

        assert (waiting.status, waiting.attempt) == (JobStatus.PENDING, 1)
        assert (waiting.error, waiting.last_error) == (None, PROBLEM)
        assert waiting.next_attempt_at is not None
        assert waiting.next_attempt_at > job.created_at
        assert waiting.started_at is None
        assert await nothing_ready(store)

        await pass_time(21.0)
        assert await nothing_ready(store)  # not before it is let in
        assert await store.queue().tend() == Tended(due=1)
        again = await claim(store)
        assert (again.job.id, again.job.attempt) == (job.id, 2)
        assert again.job.next_attempt_at is None
        assert again.job.last_error == PROBLEM

    async def test_a_waiting_retry_holds_nobody_else_up(self, store: Store) -> None:
        await submit(store, priority="high")
        await store.queue().fail(await claim(store), PROBLEM, retry_in=20.0)
        other = await submit(store, priority="low")

        assert (await claim(store)).job.id == other.id

    async def test_the_last_attempt_is_not_retried(self, store: Store) -> None:
        job = await submit(store)
        for _ in range(3):
            await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)
        failed = await store.tenant(ACME).get(job.id)

        assert (failed.status, failed.attempt, failed.error) == (JobStatus.FAILED, 3, PROBLEM)
        assert await nothing_ready(store)

    async def test_what_is_given_back_is_ready_at_once_and_costs_no_attempt(self, store: Store) -> None:
        job = await submit(store)
        for _ in range(5):
            taken = await claim(store)
            assert (taken.job.id, taken.job.attempt) == (job.id, 1)
            await store.queue().give_back(taken)
        waiting = await store.tenant(ACME).get(job.id)

        assert (waiting.status, waiting.attempt, waiting.last_error) == (JobStatus.PENDING, 0, None)

    async def test_a_cancelled_job_has_ended_without_an_error(self, store: Store) -> None:
        job = await submit(store)
        await store.queue().cancel(await claim(store))
        ended = await store.tenant(ACME).get(job.id)

        assert (ended.status, ended.error) == (JobStatus.CANCELLED, None)
        assert ended.completed_at is not None
        assert await nothing_ready(store)

    @every_end
    async def test_secrets_are_erased(self, store: Store, settle: Settle, everything: Everything) -> None:
        url = f"https://media.test/a.flac?sig={SECRET}"
        await submit(store, media_url=url, media_headers={"Authorization": SECRET})
        taken = await claim(store)
        assert SECRET in await everything()

        await settle(store.queue(), taken)
        assert SECRET not in await everything()

    @every_settler
    async def test_settling_twice_is_the_same_as_once(self, store: Store, settle: Settle) -> None:
        job = await submit(store)
        taken = await claim(store)
        await settle(store.queue(), taken)
        after_once = await store.tenant(ACME).get(job.id)
        await settle(store.queue(), taken)

        assert await store.tenant(ACME).get(job.id) == after_once

    @every_settler
    async def test_an_attempt_ends_in_one_way_only(self, store: Store, settle: Settle) -> None:
        job = await submit(store)
        taken = await claim(store)
        await settle(store.queue(), taken)
        ended = await store.tenant(ACME).get(job.id)

        # Failing for good and failing with a retry are one way: how it goes on is the store's to say.
        others = [other for other in SETTLERS.values() if other is not settle]
        failing = (SETTLERS["fail"], SETTLERS["retry"])
        for other in (other for other in others if not (settle in failing and other in failing)):
            with pytest.raises(Fenced):
                await other(store.queue(), taken)
        assert await store.tenant(ACME).get(job.id) == ended

    @every_settler
    async def test_many_who_settle_at_once_with_one_token_all_hear_the_same(self, store: Store, settle: Settle) -> None:
        job = await submit(store)
        taken = await claim(store)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(settle, store.queue(), taken)

        assert (await store.tenant(ACME).get(job.id)).attempt == (settle is not SETTLERS["give_back"])

    @every_settler
    async def test_a_claim_of_a_job_that_never_was_is_fenced(self, store: Store, settle: Settle) -> None:
        job = await submit(store)

        with pytest.raises(Fenced):
            await settle(store.queue(), Claim(job))
        assert await store.tenant(ACME).get(job.id) == job
