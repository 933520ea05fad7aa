"""What becomes of a job whose worker is silent."""

from __future__ import annotations

import pytest

from pipeline.jobs import JobStatus
from pipeline.store import Fenced, Store
from tests.conformance.store_suite.making import (
    ACME,
    LEASE,
    SECRET,
    SETTLERS,
    TRANSCRIPT,
    USAGE,
    Everything,
    PassTime,
    Settle,
    claim,
    every_settler,
    nothing_ready,
    submit,
)


class TestLeases:
    async def test_a_renewed_lease_is_not_rescued(self, store: Store, pass_time: PassTime) -> None:
        await submit(store)
        taken = await claim(store)
        for _ in range(3):
            await pass_time(LEASE - 1)
            renewal = await store.queue().renew([taken], lease_seconds=LEASE)
            assert renewal.kept == {taken.token}
            assert (await store.queue().tend()).rescued == 0

        await store.queue().commit(taken, TRANSCRIPT, USAGE)

    async def test_a_lease_that_ran_out_makes_the_job_pending_again(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        lost = await claim(store)
        await pass_time(LEASE + 1)

        assert (await store.queue().tend()).rescued == 1
        assert (await store.queue().tend()).rescued == 0
        waiting = await store.tenant(ACME).get(job.id)
        assert (waiting.status, waiting.attempt) == (JobStatus.PENDING, 1)
        assert waiting.last_error is not None
        assert waiting.last_error.code == "worker-lost"
        assert waiting.last_error.attempt == 1

        renewal = await store.queue().renew([lost], lease_seconds=LEASE)
        assert renewal.kept == frozenset()

    async def test_a_job_whose_workers_are_lost_too_often_fails(
        self, store: Store, pass_time: PassTime, everything: Everything
    ) -> None:
        job = await submit(store, media_headers={"Authorization": SECRET})
        for _ in range(3):
            await store.queue().begin(await claim(store))
            await pass_time(LEASE + 1)
            assert (await store.queue().tend()).rescued == 1
        failed = await store.tenant(ACME).get(job.id)

        assert failed.status is JobStatus.FAILED
        assert failed.error is not None
        assert (failed.error.code, failed.error.attempt) == ("worker-lost", 3)
        assert SECRET not in await everything()
        assert await nothing_ready(store)

    @every_settler
    async def test_after_a_rescue_the_old_claim_changes_nothing(
        self, store: Store, settle: Settle, pass_time: PassTime
    ) -> None:
        job = await submit(store)
        old = await claim(store)
        await pass_time(LEASE + 1)
        await store.queue().tend()
        new = await claim(store, replica="two")

        with pytest.raises(Fenced):
            await settle(store.queue(), old)
        assert await store.tenant(ACME).get(job.id) == new.job
        await store.queue().commit(new, TRANSCRIPT, USAGE)
        with pytest.raises(Fenced):
            await settle(store.queue(), old)
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.COMPLETED

    async def test_one_replica_holding_an_old_and_a_new_claim_keeps_the_new_one(
        self, store: Store, pass_time: PassTime
    ) -> None:
        await submit(store)
        old = await claim(store)
        await pass_time(LEASE + 1)
        await store.queue().tend()
        new = await claim(store)

        renewal = await store.queue().renew([old, new], lease_seconds=LEASE)
        assert renewal.kept == {new.token}

    async def test_voided_leases_are_lost_however_long_they_had_to_go(self, store: Store) -> None:
        jobs = [await submit(store) for _ in range(3)]
        claims = [await claim(store) for _ in jobs]

        assert await store.queue().void_leases() == 3
        for job, taken in zip(jobs, claims, strict=True):
            assert (await store.tenant(ACME).get(job.id)).status is JobStatus.PENDING
            with pytest.raises(Fenced):
                await store.queue().commit(taken, TRANSCRIPT, USAGE)
        assert await store.queue().void_leases() == 0


class TestProgress:
    async def test_what_is_reported_is_seen_at_the_door(self, store: Store) -> None:
        job = await submit(store)
        taken = await claim(store)
        taken.advance("transcribing", 0.5, audio_seconds_done=30.0, tracks_total=1)
        await store.queue().report([taken])

        assert (await store.tenant(ACME).get(job.id)).progress == taken.progress

    @pytest.mark.parametrize("settle", [SETTLERS["retry"], SETTLERS["give_back"]], ids=["retry", "give_back"])
    async def test_it_does_not_go_back_with_the_next_attempt(self, store: Store, settle: Settle) -> None:
        job = await submit(store)
        first = await claim(store)
        first.advance("transcribing", 0.5)
        await settle(store.queue(), first)

        waiting = await store.tenant(ACME).get(job.id)
        assert (waiting.progress.stage, waiting.progress.fraction) == ("pending", first.progress.fraction)
        second = await claim(store)
        second.advance("downloading")
        await store.queue().report([second])
        assert (await store.tenant(ACME).get(job.id)).progress.fraction == first.progress.fraction

    async def test_what_was_reported_survives_the_worker(self, store: Store) -> None:
        job = await submit(store)
        lost = await claim(store)
        lost.advance("transcribing", 0.5)
        await store.queue().report([lost])
        await store.queue().void_leases()

        assert (await store.tenant(ACME).get(job.id)).progress.fraction == lost.progress.fraction
        assert (await claim(store)).progress.fraction == lost.progress.fraction

    async def test_a_claim_without_its_lease_reports_nothing(self, store: Store) -> None:
        job = await submit(store)
        lost = await claim(store)
        await store.queue().void_leases()
        await claim(store)
        lost.advance("committing")
        await store.queue().report([lost])

        assert (await store.tenant(ACME).get(job.id)).progress.fraction == 0.0
