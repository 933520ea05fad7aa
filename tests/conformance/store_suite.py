"""What every store does, as one suite.

A module that runs it imports everything from here and gives two fixtures: ``store``, open and empty, and ``pass_time``,
which lets the store believe that so many seconds have gone by. The store gives every job three attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import anyio
import pytest

from pipeline.claim import Claim
from pipeline.errors import MediaUnreachable, NotFound
from pipeline.jobs import Job, JobRequest, JobStatus, Problem, Tenant, Usage
from pipeline.store import Depth, Fenced, JobQueue, Store
from pipeline.store.rules import CHUNK_BYTES
from pipeline.transcript import EngineInfo, Notice, Segment, Transcript

PassTime = Callable[[float], Awaitable[None]]

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
LEASE = 60.0
SECRET = "c0ffee"

USAGE = Usage(
    media_seconds=2.0,
    track_seconds=2.0,
    speech_seconds=1.5,
    queue_seconds=0.1,
    processing_seconds=0.5,
    realtime_factor=0.25,
)
SAID = Segment(
    id=0,
    track="downmix",
    start=0.0,
    end=1.5,
    text="Grüße – 你好\0",
    language="de",
    confidence=0.9,
    avg_logprob=-0.2,
    no_speech_prob=None,
    compression_ratio=1.1,
)
TRANSCRIPT = Transcript(
    text=SAID.text,
    language="de",
    duration=2.0,
    processing_mode="downmix",
    tracks=(),
    segments=(SAID,),
    warnings=(Notice(code="track-silent", track="1:0", detail="Nothing is said on this track."),),
    engine=EngineInfo(backend="mock", model="mock", device="cpu", compute_type="none", version="1"),
)
PROBLEM = Problem.of(MediaUnreachable("The server answered 503."), stage="downloader", attempt=1)


def a_request(**changes: object) -> JobRequest:
    return JobRequest.model_validate({"media_url": "https://media.test/a.flac", **changes})


async def submit(store: Store, tenant: Tenant = ACME, **changes: object) -> Job:
    return await store.tenant(tenant).submit(a_request(**changes))


async def claim(store: Store, *, replica: str = "one", lease: float = LEASE) -> Claim:
    taken = await store.queue().claim(replica=replica, lease_seconds=lease)
    assert taken is not None
    return taken


async def nothing_ready(store: Store) -> bool:
    return await store.queue().claim(replica="one", lease_seconds=LEASE) is None


async def upload(store: Store, *chunks: bytes, tenant: Tenant = ACME) -> UUID:
    async with store.tenant(tenant).upload() as file:
        for chunk in chunks:
            await file.write(chunk)
    return file.id


async def read(store: Store, taken: Claim, file: UUID) -> list[bytes]:
    return [chunk async for chunk in store.queue().read_upload(taken, file)]


Settle = Callable[[JobQueue, Claim], Awaitable[None]]
SETTLERS: dict[str, Settle] = {
    "commit": lambda queue, taken: queue.commit(taken, TRANSCRIPT, USAGE),
    "fail": lambda queue, taken: queue.fail(taken, PROBLEM, retry_in=None),
    "retry": lambda queue, taken: queue.fail(taken, PROBLEM, retry_in=0.0),
    "give_back": lambda queue, taken: queue.give_back(taken),
    "cancel": lambda queue, taken: queue.cancel(taken),
}
every_settler = pytest.mark.parametrize("settle", SETTLERS.values(), ids=SETTLERS)
every_end = pytest.mark.parametrize("settle", [SETTLERS[name] for name in ("commit", "fail", "cancel")])


class TestTheDoor:
    async def test_a_submitted_job_waits_and_is_found_again(self, store: Store) -> None:
        job = await submit(store, priority="high", metadata={"call": [1, "\0", {}]})

        assert job.status is JobStatus.PENDING
        assert (job.attempt, job.max_attempts) == (0, 3)
        assert job.started_at is None
        assert job.completed_at is None
        assert job.request == a_request(priority="high", metadata={"call": [1, "\0", {}]})
        assert await store.tenant(ACME).get(job.id) == job
        assert await store.tenant(ACME).transcript(job.id) is None

    async def test_a_foreign_job_is_as_absent_as_one_that_never_was(self, store: Store) -> None:
        job = await submit(store)

        for absent in (job.id, uuid4()):
            with pytest.raises(NotFound, match=str(absent)):
                await store.tenant(GLOBEX).get(absent)
            with pytest.raises(NotFound, match=str(absent)):
                await store.tenant(GLOBEX).transcript(absent)

    async def test_a_foreign_transcript_is_absent_too(self, store: Store) -> None:
        job = await submit(store)
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)

        with pytest.raises(NotFound):
            await store.tenant(GLOBEX).transcript(job.id)

    async def test_secrets_go_to_the_worker_and_never_back_to_the_door(self, store: Store) -> None:
        url, headers = f"https://u:{SECRET}@media.test/a.flac?sig={SECRET}#{SECRET}", {"Authorization": SECRET}
        job = await submit(store, media_url=url, media_headers=headers)
        taken = await claim(store)

        assert (taken.job.request.media_url, taken.job.request.media_headers) == (url, headers)
        for shown in (job, await store.tenant(ACME).get(job.id)):
            assert shown.request.media_url == "https://media.test/a.flac"
            assert SECRET not in repr(shown)

    async def test_a_retried_attempt_still_has_the_secrets(self, store: Store) -> None:
        await submit(store, media_headers={"Authorization": SECRET})
        await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)

        assert (await claim(store)).job.request.media_headers == {"Authorization": SECRET}

    async def test_a_trace_travels_from_the_door_to_the_claim(self, store: Store) -> None:
        await store.tenant(ACME).submit(a_request(), trace={"traceparent": "00-ab-cd-01"})

        assert (await claim(store)).trace == {"traceparent": "00-ab-cd-01"}


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

    async def test_depth_counts_what_waits_and_what_is_under_way(self, store: Store) -> None:
        for tenant in (ACME, GLOBEX, GLOBEX):
            await submit(store, tenant)
        await claim(store)
        assert await store.queue().depth() == Depth(pending=2, running=1)

        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
        assert await store.queue().depth() == Depth(pending=1, running=1)

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


class TestLeases:
    async def test_a_renewed_lease_is_not_rescued(self, store: Store, pass_time: PassTime) -> None:
        await submit(store)
        taken = await claim(store)
        for _ in range(3):
            await pass_time(LEASE - 1)
            renewal = await store.queue().renew([taken], lease_seconds=LEASE)
            assert renewal.kept == {taken.token}
            assert await store.queue().rescue() == 0

        await store.queue().commit(taken, TRANSCRIPT, USAGE)

    async def test_a_lease_that_ran_out_makes_the_job_pending_again(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store)
        lost = await claim(store)
        await pass_time(LEASE + 1)

        assert await store.queue().rescue() == 1
        assert await store.queue().rescue() == 0
        waiting = await store.tenant(ACME).get(job.id)
        assert (waiting.status, waiting.attempt) == (JobStatus.PENDING, 1)
        assert waiting.last_error is not None
        assert waiting.last_error.code == "worker-lost"
        assert waiting.last_error.attempt == 1

        renewal = await store.queue().renew([lost], lease_seconds=LEASE)
        assert renewal.kept == frozenset()

    async def test_a_job_whose_workers_are_lost_too_often_fails(self, store: Store, pass_time: PassTime) -> None:
        job = await submit(store, media_headers={"Authorization": SECRET})
        for _ in range(3):
            await claim(store)
            await pass_time(LEASE + 1)
            assert await store.queue().rescue() == 1
        failed = await store.tenant(ACME).get(job.id)

        assert failed.status is JobStatus.FAILED
        assert failed.error is not None
        assert (failed.error.code, failed.error.attempt) == ("worker-lost", 3)
        assert await nothing_ready(store)

    @every_settler
    async def test_after_a_rescue_the_old_claim_changes_nothing(
        self, store: Store, settle: Settle, pass_time: PassTime
    ) -> None:
        job = await submit(store)
        old = await claim(store)
        await pass_time(LEASE + 1)
        await store.queue().rescue()
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
        await store.queue().rescue()
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


class TestUploads:
    async def test_a_file_of_any_chunks_comes_out_as_it_went_in(self, store: Store) -> None:
        chunks = [b"", b"a" * 10, b"b" * (2 * CHUNK_BYTES + 1), b"c" * (CHUNK_BYTES - 11), b"d"]
        file = await upload(store, *chunks)
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)

        assert job.uploads == taken.job.uploads == (file,)
        received = await read(store, taken, file)
        assert b"".join(received) == b"".join(chunks)
        assert max(map(len, received)) <= CHUNK_BYTES

    async def test_an_empty_file_is_a_file(self, store: Store) -> None:
        file = await upload(store)
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])

        assert await read(store, await claim(store), file) == []

    async def test_files_keep_their_order(self, store: Store) -> None:
        files = [await upload(store, b"x") for _ in range(4)]
        files.sort()
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=files[::-1])

        assert job.uploads == tuple(files[::-1])
        assert (await claim(store)).job.uploads == tuple(files[::-1])

    async def test_only_the_own_whole_and_unused_uploads_make_a_job(self, store: Store) -> None:
        foreign = await upload(store, b"theirs", tenant=GLOBEX)
        used = await upload(store, b"used")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[used])
        await claim(store)
        twice = await upload(store, b"twice")
        async with store.tenant(ACME).upload() as arriving:
            await arriving.write(b"half")
            for files in ([foreign], [used], [twice, twice], [arriving.id], [uuid4()], [twice, foreign]):
                with pytest.raises(NotFound):
                    await store.tenant(ACME).submit(a_request(media_url=None), uploads=files)

        assert await nothing_ready(store)
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[twice])
        assert await read(store, await claim(store), twice) == [b"twice"]

    async def test_an_upload_that_breaks_off_is_erased(self, store: Store) -> None:
        with pytest.raises(ConnectionResetError):
            async with store.tenant(ACME).upload() as file:
                await file.write(b"half of it")
                raise ConnectionResetError
        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])

    async def test_a_cancelled_upload_is_erased(self, store: Store) -> None:
        with anyio.CancelScope() as scope:
            async with store.tenant(ACME).upload() as file:
                await file.write(b"half of it")
                scope.cancel()
                await anyio.sleep_forever()
        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])

    async def test_discarded_uploads_are_gone_but_not_those_of_others(self, store: Store) -> None:
        mine, foreign = await upload(store, b"mine"), await upload(store, b"theirs", tenant=GLOBEX)
        await store.tenant(ACME).discard([mine, foreign, uuid4()])

        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[mine])
        await store.tenant(GLOBEX).submit(a_request(media_url=None), uploads=[foreign])

    async def test_a_job_keeps_its_uploads_when_they_are_discarded(self, store: Store) -> None:
        file = await upload(store, b"mine")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        await store.tenant(ACME).discard([file])

        assert await read(store, await claim(store), file) == [b"mine"]

    @every_end
    async def test_uploads_are_erased_when_the_job_ends(self, store: Store, settle: Settle) -> None:
        file = await upload(store, b"x" * CHUNK_BYTES, b"y")
        job = await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)
        await settle(store.queue(), taken)

        assert (await store.tenant(ACME).get(job.id)).uploads == ()
        with pytest.raises(Fenced):
            await read(store, taken, file)

    async def test_a_file_that_is_erased_while_it_is_read_does_not_just_end(self, store: Store) -> None:
        file = await upload(store, b"x" * (2 * CHUNK_BYTES))
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        taken = await claim(store)
        chunks = aiter(store.queue().read_upload(taken, file))
        assert len(await anext(chunks)) == CHUNK_BYTES
        await store.queue().cancel(taken)

        with pytest.raises(Fenced):
            await anext(chunks)

    async def test_a_retried_job_keeps_its_uploads(self, store: Store) -> None:
        file = await upload(store, b"kept")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file])
        await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)

        assert await read(store, await claim(store), file) == [b"kept"]

    async def test_only_a_claims_own_uploads_can_be_read(self, store: Store) -> None:
        file = await upload(store, b"theirs", tenant=GLOBEX)
        await submit(store)
        taken = await claim(store)
        await store.tenant(GLOBEX).submit(a_request(media_url=None), uploads=[file])

        with pytest.raises(Fenced):
            await read(store, taken, file)

    async def test_an_hour_old_upload_without_a_job_is_swept(self, store: Store, pass_time: PassTime) -> None:
        used, orphan = await upload(store, b"used"), await upload(store, b"orphan")
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[used])
        await pass_time(3601)
        fresh = await upload(store, b"fresh")
        await store.queue().rescue()

        with pytest.raises(NotFound):
            await store.tenant(ACME).submit(a_request(media_url=None), uploads=[orphan])
        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[fresh])
        assert await read(store, await claim(store), used) == [b"used"]
        assert await read(store, await claim(store), fresh) == [b"fresh"]

    async def test_a_slow_upload_is_no_orphan(self, store: Store, pass_time: PassTime) -> None:
        async with store.tenant(ACME).upload() as file:
            for _ in range(3):
                await file.write(b"x" * CHUNK_BYTES)
                await pass_time(3000)
                await store.queue().rescue()

        await store.tenant(ACME).submit(a_request(media_url=None), uploads=[file.id])
        assert len(await read(store, await claim(store), file.id)) == 3


async def test_an_open_store_answers_a_ping(store: Store) -> None:
    await store.ping()
