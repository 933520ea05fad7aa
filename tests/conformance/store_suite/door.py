"""What a tenant sees of its jobs, and what nobody sees."""

from __future__ import annotations

from uuid import uuid4

import pytest

from pipeline.errors import NotFound
from pipeline.jobs import JobStatus
from pipeline.store import Store
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    PROBLEM,
    SECRET,
    TRANSCRIPT,
    USAGE,
    a_request,
    claim,
    submit,
)


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

    async def test_an_open_store_answers_a_ping(self, store: Store) -> None:
        await store.ping()
