"""Replicas of two releases on one database, as while an upgrade rolls through."""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from pipeline.claim import Claim
from pipeline.jobs import JobStatus
from pipeline.store import Listing, Swept
from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import (
    ACME,
    LEASE,
    TRANSCRIPT,
    USAGE,
    Books,
    claim,
    due,
    nothing_ready,
    submit,
)

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# As the release before has it.
COMMIT = """
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), attempt AS (
    INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome)
    SELECT token, job_id, tenant_id, replica, claimed_at, 'completed' FROM lease
), transcript AS (
    INSERT INTO antiphon.transcripts (job_id, tenant_id, transcript)
    SELECT job_id, tenant_id, $4 FROM lease
), upload AS (
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true FROM lease WHERE uploads.job_id = lease.job_id
)
UPDATE antiphon.jobs
SET status = 'completed', completed_at = now(), progress = $3, usage = $5, warnings = $6, secrets = NULL, uploads = '{}'
FROM lease WHERE jobs.id = lease.job_id
"""


async def commit_as_before(dsn: str, taken: Claim) -> None:
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SELECT set_config('role', 'antiphon_chain', true)")
        documents = (taken.progress, TRANSCRIPT, USAGE)
        written = [document.model_dump_json() for document in documents]
        await connection.execute(COMMIT, taken.job.id, taken.token, *written, "[]")
    await connection.close()


async def test_what_the_release_before_ends_is_counted_told_of_and_kept_for_as_long_as_was_asked(
    store: PostgresStore, dsn: str, admin: Admin, books: Books
) -> None:
    job = await submit(store, callback_url="https://hooks.test/c0ffee", retention_seconds=0, external_id="call")
    taken = await claim(store)
    await store.queue().keep(taken, {bytes(16): "{}"})
    await commit_as_before(dsn, taken)

    assert await store.tenant(ACME).transcript(job.id) == TRANSCRIPT
    used = await books.usage()
    assert [(row.job, row.outcome, row.media_seconds) for row in used] == [(job.id, "completed", USAGE.media_seconds)]
    assert [told.url for told in await due(store)] == ["https://hooks.test/c0ffee"]
    assert await admin.fetchval("SELECT count(*) FROM antiphon.jobs WHERE callback_url IS NOT NULL") == 0
    assert await admin.fetchval("SELECT count(*) FROM antiphon.checkpoints") == 0
    assert (await store.queue().sweep()).expired == 1


async def asked_of_a_newer_release(admin: Admin, job: UUID) -> None:
    newer = """replace(request::text, '"downmix"', '"diarize"')::json"""
    assert await admin.execute(f"UPDATE antiphon.jobs SET request = {newer} WHERE id = $1", job) == "UPDATE 1"


async def test_a_job_that_only_a_newer_release_can_read_is_left_to_that_and_the_next_one_is_claimed(
    store: PostgresStore, admin: Admin
) -> None:
    unread, other = await submit(store), await submit(store)
    await asked_of_a_newer_release(admin, unread.id)

    assert (await claim(store)).job.id == other.id
    waits = await store.tenant(ACME).get(unread.id)
    assert waits.status is JobStatus.PENDING
    assert waits.next_attempt_at is not None
    assert await admin.fetchval("SELECT count(*) FROM antiphon.leases") == 1


async def test_the_same_goes_for_one_that_has_lost_a_worker(store: PostgresStore, admin: Admin) -> None:
    unread = await submit(store)
    await asked_of_a_newer_release(admin, unread.id)
    await admin.execute("UPDATE antiphon.jobs SET attempt = 1, losses = 1")

    assert await store.queue().claim_alone(replica="one", lease_seconds=LEASE, idle=True) is None
    assert (await store.tenant(ACME).get(unread.id)).next_attempt_at is not None


async def test_a_job_that_no_replica_can_read_fails_in_the_end(store: PostgresStore, admin: Admin) -> None:
    unread = await submit(store)
    await asked_of_a_newer_release(admin, unread.id)
    for _ in range(unread.max_attempts):
        assert await nothing_ready(store)
        await admin.execute("UPDATE antiphon.jobs SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
        await store.queue().tend()

    failed = await store.tenant(ACME).get(unread.id)
    assert (failed.status, failed.error and failed.error.code) == (JobStatus.FAILED, "internal")
    assert await store.queue().sweep() == Swept()


async def test_a_job_that_only_a_newer_release_can_read_is_shown_without_what_it_asks_for(
    store: PostgresStore, admin: Admin
) -> None:
    unread, other = await submit(store, language="de"), await submit(store)
    await asked_of_a_newer_release(admin, unread.id)

    assert {job.id for job in await store.tenant(ACME).list(Listing(limit=10))} == {unread.id, other.id}
    assert (await store.tenant(ACME).get(unread.id)).request == unread.request
