"""The committer makes every end durable, as what it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.claim import Abandoned, Claim, Failure, Why
from pipeline.errors import MediaCorrupt, MediaUnreachable
from pipeline.jobs import Job, JobStatus, Usage
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import EngineInfo, Notice, Track, Transcript
from stages.committer import Committer
from tests.conformance.store_suite.making import ACME, claim, nothing_ready, submit

SETTINGS = QueueSettings(retry_seconds=10.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def committer(store: MemoryStore) -> Committer:
    return Committer(store.queue(), SETTINGS)


@pytest.fixture
async def taken(store: MemoryStore) -> Claim:
    await submit(store)
    return await claim(store, lease=1e9)


async def now(store: MemoryStore, taken: Claim) -> Job:
    """The job as its tenant sees it."""
    return await store.tenant(ACME).get(taken.job.id)


def track(index: int, duration: float, speech: float, **facts: object) -> Track:
    whole = {"id": f"1:{index}", "index": index, "stream": 1, "channel": index}
    return Track.model_validate({**whole, "duration": duration, "speech_seconds": speech, **facts})


TRANSCRIPT = Transcript(
    text="",
    language=None,
    duration=20.0,
    processing_mode="downmix",
    tracks=(track(0, 20.0, 8.0), track(1, 15.5, 2.25), track(2, 20.0, 0.0, status="duplicate", duplicate_of="1:0")),
    segments=(),
    warnings=(Notice(code="track-silent", detail=""),),
    engine=EngineInfo(backend="mock", model="mock", device="cpu", compute_type="none", version="1"),
)


async def test_a_transcript_completes_its_job(store: MemoryStore, committer: Committer, taken: Claim) -> None:
    await committer.settle(taken, TRANSCRIPT)
    job = await now(store, taken)
    assert (job.status, job.progress.fraction, job.error) == (JobStatus.COMPLETED, 1.0, None)
    assert job.warnings == TRANSCRIPT.warnings
    assert await store.tenant(ACME).transcript(job.id) == TRANSCRIPT


async def test_usage_counts_every_track_but_duplicates(store: MemoryStore, committer: Committer, taken: Claim) -> None:
    began = datetime.now(UTC) - timedelta(seconds=40)
    taken.job = replace(taken.job, created_at=began - timedelta(seconds=60), started_at=began)
    await committer.settle(taken, TRANSCRIPT)
    usage = (await now(store, taken)).usage
    assert usage is not None
    assert (usage.media_seconds, usage.track_seconds, usage.speech_seconds) == (20.0, 35.5, 10.25)
    assert usage.queue_seconds == 60.0
    assert usage.processing_seconds >= 40.0
    assert usage.realtime_factor == pytest.approx(usage.processing_seconds / 20.0, abs=0.001)


async def test_a_recording_of_no_length_has_no_realtime_factor(
    store: MemoryStore, committer: Committer, taken: Claim
) -> None:
    await committer.settle(taken, TRANSCRIPT.model_copy(update={"duration": 0.0}))
    usage = (await now(store, taken)).usage
    assert usage is not None
    assert usage.realtime_factor is None


async def test_an_error_that_stays_fails_the_job_at_once(
    store: MemoryStore, committer: Committer, taken: Claim
) -> None:
    await committer.settle(taken, Failure("demuxer", MediaCorrupt("The MP4 file has no index.")))
    job = await now(store, taken)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    told = (job.error.code, job.error.detail, job.error.stage, job.error.attempt)
    assert told == ("media-corrupt", "The MP4 file has no index.", "demuxer", 1)


async def test_an_error_of_our_own_fails_the_job_and_keeps_its_text_to_itself(
    store: MemoryStore, committer: Committer, taken: Claim
) -> None:
    await committer.settle(taken, Failure("transcriber", KeyError("secret")))
    error = (await now(store, taken)).error
    assert error is not None
    assert error.code == "internal"
    assert "secret" not in error.model_dump_json()


async def test_an_error_that_may_pass_is_tried_again_after_pauses_that_double(
    store: MemoryStore, committer: Committer, taken: Claim, clock: Clock
) -> None:
    error, attempt = MediaUnreachable("The server answered 503."), taken
    for pause in (10.0, 20.0):
        await committer.settle(attempt, Failure("downloader", error))
        job = await now(store, taken)
        assert (job.status, job.last_error and job.last_error.detail) == (JobStatus.PENDING, error.detail)
        clock.now += 0.79 * pause
        assert (await store.queue().tend()).due == 0
        clock.now += 0.42 * pause
        assert (await store.queue().tend()).due == 1
        attempt = await claim(store)
    await committer.settle(attempt, Failure("downloader", error))
    job = await now(store, taken)
    assert (job.status, job.error and job.error.attempt) == (JobStatus.FAILED, 3)


async def test_workers_that_were_lost_do_not_lengthen_the_pause(
    store: MemoryStore, committer: Committer, taken: Claim, clock: Clock
) -> None:
    await store.queue().void_leases()
    attempt = await claim(store)
    assert (attempt.job.attempt, attempt.job.losses) == (2, 1)
    await committer.settle(attempt, Failure("downloader", MediaUnreachable("The server answered 503.")))
    clock.now += 12.1
    assert (await store.queue().tend()).due == 1


@pytest.mark.parametrize("attempt", [10, 5000])
async def test_no_pause_is_longer_than_an_hour_and_its_jitter(
    store: MemoryStore, taken: Claim, clock: Clock, attempt: int
) -> None:
    row = store.rows[taken.job.id]
    taken.job = row.job = replace(taken.job, attempt=attempt, max_attempts=attempt + 1)
    committer = Committer(store.queue(), QueueSettings(max_attempts=attempt + 1))
    await committer.settle(taken, Failure("downloader", MediaUnreachable("The server answered 503.")))
    assert 0.8 * 2560 <= row.ready_at <= 1.2 * 3600
    clock.now = row.ready_at
    assert (await store.queue().tend()).due == 1


async def test_jobs_that_failed_together_do_not_return_together(store: MemoryStore, committer: Committer) -> None:
    waits = set()
    for _ in range(5):
        await submit(store)
        taken = await claim(store)
        await committer.settle(taken, Failure("downloader", MediaUnreachable("The server answered 503.")))
        waits.add(store.rows[taken.job.id].ready_at)
    assert len(waits) == 5


async def test_a_job_that_its_client_gave_up_is_cancelled(
    store: MemoryStore, committer: Committer, taken: Claim
) -> None:
    await committer.settle(taken, Failure("transcriber", Abandoned(Why.CANCELLED)))
    assert (await now(store, taken)).status is JobStatus.CANCELLED


async def test_a_job_that_is_given_back_is_ready_at_once_and_its_attempt_is_not_counted(
    store: MemoryStore, committer: Committer, taken: Claim
) -> None:
    await committer.settle(taken, Failure("chain", Abandoned(Why.STOPPED)))
    job = await now(store, taken)
    assert (job.status, job.attempt, job.last_error) == (JobStatus.PENDING, 0, None)
    assert (await claim(store)).job.attempt == 1


@pytest.mark.parametrize(
    "end",
    [
        TRANSCRIPT,
        Failure("demuxer", MediaCorrupt()),
        Failure("chain", Abandoned(Why.CANCELLED)),
        Failure("chain", Abandoned(Why.STOPPED)),
    ],
    ids=["result", "failure", "cancelled", "stopped"],
)
async def test_a_lost_lease_is_told_to_the_claim_and_nothing_is_written(
    store: MemoryStore, committer: Committer, taken: Claim, end: Transcript | Failure
) -> None:
    await store.queue().void_leases()
    other = await claim(store)
    before = await now(store, taken)
    with pytest.raises(Fenced):
        await committer.settle(taken, end)
    assert taken.abandoned is Why.LEASE_LOST
    assert await now(store, taken) == before
    await committer.settle(other, TRANSCRIPT)


async def test_a_store_that_is_away_leaves_the_claim_to_be_settled_later(store: MemoryStore, taken: Claim) -> None:
    class Away(MemoryJobQueue):
        away = True

        async def commit(self, claim: Claim, transcript: Transcript, usage: Usage) -> None:
            if self.away:
                raise Unavailable("The database cannot be used right now.")
            await super().commit(claim, transcript, usage)

    queue = Away(store)
    committer = Committer(queue, SETTINGS)
    with pytest.raises(Unavailable):
        await committer.settle(taken, TRANSCRIPT)
    assert taken.abandoned is None
    queue.away = False
    await committer.settle(taken, TRANSCRIPT)
    assert (await now(store, taken)).status is JobStatus.COMPLETED


async def test_a_store_that_was_away_costs_the_job_no_attempt_and_a_pause(
    committer: Committer, store: MemoryStore, taken: Claim, clock: Clock
) -> None:
    await committer.settle(taken, Failure("downloader", Unavailable("away")))
    job = await now(store, taken)
    assert (job.status, job.attempt) == (JobStatus.PENDING, 0)
    assert await nothing_ready(store)
    clock.now += 5.0
    await store.queue().tend()
    assert (await claim(store)).job.id == job.id


@pytest.mark.parametrize(
    ("error", "status"), [(OSError("No space left"), JobStatus.PENDING), (KeyError("a bug"), JobStatus.FAILED)]
)
async def test_trouble_of_the_machine_may_pass_and_a_bug_comes_again(
    committer: Committer, store: MemoryStore, taken: Claim, error: Exception, status: JobStatus
) -> None:
    await committer.settle(taken, Failure("demuxer", error))
    assert (await now(store, taken)).status is status
