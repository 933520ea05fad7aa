"""Replicas of two releases on one database, as while an upgrade rolls through."""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from pipeline.jobs import JobStatus
from pipeline.store import Listing, Swept
from pipeline.store.postgres import PostgresStore
from tests.conformance.store_suite.making import ACME, claim, nothing_ready, submit

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


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
