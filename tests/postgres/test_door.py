"""The door's face where it meets claims, large tenants and the limits of columns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import anyio
import asyncpg
import pytest

from pipeline.jobs import Job, Tenant
from pipeline.store import Fenced, Listing
from pipeline.store.postgres import PostgresStore
from pipeline.store.postgres.database import Connection, Database, door
from pipeline.store.postgres.queries import SQL
from tests.conformance.store_suite.making import ACME, LEASE, PROBLEM, TRANSCRIPT, USAGE, claim, submit
from tests.postgres.paused import meet, paused

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def test_a_delete_that_meets_the_claim_of_its_job_takes_it_from_the_worker(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    job = await submit(store)
    async with paused(dsn) as claims:
        queue = claims.queue()
        claimed, deleted = await meet(
            admin,
            claims,
            lambda: queue.claim(replica="one", lease_seconds=LEASE),
            lambda: store.tenant(ACME).delete(job.id),
        )
    assert claimed.result is not None
    assert deleted.error is None
    with pytest.raises(Fenced):
        await store.queue().commit(claimed.result, TRANSCRIPT, USAGE)  # type: ignore[arg-type]  # it is a claim
    assert await admin.fetchval("SELECT count(*) FROM antiphon.jobs") == 0
    assert await admin.fetchval("SELECT array_agg(outcome) FROM antiphon.usage") == ["cancelled"]


async def test_a_lease_that_came_behind_the_look_for_it_is_left_for_the_next_look(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    """A settling statement may hold it and want the job: erasing it while the job is held would close a circle."""
    job = await submit(store)
    async with paused(dsn) as claims, opened(dsn) as doors:
        queue = claims.queue()
        _, looked = await meet(
            admin,
            claims,
            lambda: queue.claim(replica="one", lease_seconds=LEASE),
            lambda: doors.unit(door(ACME), lambda connection: connection.fetchval(SQL["delete_own"], job.id)),
        )
    assert looked.result == "claimed"
    assert await admin.fetchval("SELECT count(*) FROM antiphon.leases") == 1


async def test_a_running_job_that_has_lost_its_lease_can_be_deleted_too(store: PostgresStore, admin: Admin) -> None:
    """By hand: nothing of ours leaves one behind, and nothing of ours waits for it for ever."""
    job = await submit(store)
    await claim(store)
    await admin.execute("DELETE FROM antiphon.leases")
    with anyio.fail_after(10):
        await store.tenant(ACME).delete(job.id)
    assert await admin.fetchval("SELECT count(*) FROM antiphon.jobs") == 0


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = Database(dsn, pool_size=1, pooled=False)
    await database.open()
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("status", "external_id", "rows"),
    [
        (None, None, 50),
        ("pending", None, 50),
        ("cancelled", None, 2),
        ("failed", None, 0),
        (None, "call-19999", 1),
        (None, "call", 0),
        ("pending", "call-7", 1),
    ],
)
async def test_a_page_is_read_from_an_index_and_no_row_besides(
    store: PostgresStore, dsn: str, admin: Admin, status: str | None, external_id: str | None, rows: int
) -> None:
    await admin.execute(
        "INSERT INTO antiphon.jobs"
        " (id, tenant_id, request, secrets, priority, max_attempts, progress, created_at, external_id)"
        " SELECT gen_random_uuid(), 'acme', '{}', '{}', 0, 3, '{}', now() - n * interval '1 second', 'call-' || n"
        " FROM generate_series(1, 20000) AS n"
    )
    await admin.execute(
        "UPDATE antiphon.jobs SET status = 'cancelled', completed_at = now(), secrets = NULL"
        " WHERE external_id IN ('call-19998', 'call-19999')"
    )
    await admin.execute("ANALYZE antiphon.jobs")

    async def explain(connection: Connection) -> str:
        await connection.execute(SQL["in_order"])
        asked = ("acme", 50, None, None, None, None, status, external_id)
        return str(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {SQL['list']}", *asked))

    async with opened(dsn) as database:
        plan = await database.unit(door(ACME), explain)
    scanned = [node for node in nodes(json.loads(plan)[0]["Plan"]) if node.get("Relation Name") == "jobs"]
    looked_at = [(node["Actual Rows"], node.get("Rows Removed by Filter", 0)) for node in scanned]
    assert looked_at == [(rows, 0)], plan


def nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return [plan, *(node for child in children for node in nodes(child))]


@pytest.mark.parametrize(("asked", "kept"), [(None, None), (0, 0), (2**31 - 1, 2**31 - 1)])
async def test_a_job_is_kept_for_as_long_as_was_asked(
    store: PostgresStore, admin: Admin, asked: int | None, kept: int | None
) -> None:
    job = await submit(store, retention_seconds=asked)
    await store.tenant(ACME).cancel(job.id)

    ended, expires = await expiry(admin, job)
    assert expires == (None if kept is None else ended + timedelta(seconds=kept))


async def expiry(admin: Admin, job: Job) -> tuple[datetime, datetime | None]:
    row = await admin.fetchrow("SELECT completed_at, expires_at FROM antiphon.jobs WHERE id = $1", job.id)
    assert row is not None
    return row["completed_at"], row["expires_at"]


async def test_what_a_prompt_says_is_not_taken_for_the_mode_that_was_asked_for(
    store: PostgresStore, admin: Admin
) -> None:
    said = '"processing_mode":"select"'
    job = await submit(store, media_url=f"https://media.test/{said}", prompt=said, metadata={"processing_mode": "\0"})
    await store.tenant(ACME).cancel(job.id)
    assert await admin.fetchval("SELECT mode FROM antiphon.usage") == "downmix"


async def test_its_next_job_starts_when_those_before_it_have_at_the_pace_of_late(store: PostgresStore) -> None:
    others = [Tenant(f"other-{number}") for number in range(3)]
    await submit(store, ACME)
    for _ in range(2):
        await claim(store)
        await submit(store, ACME)
    for other in others:
        await submit(store, other)

    standing = await store.tenant(ACME).standing()
    assert standing.ahead is not None
    assert standing.starts_in == pytest.approx((standing.ahead + 1) / (2 / 300))


async def test_jobs_of_one_moment_are_listed_in_one_order(store: PostgresStore, admin: Admin) -> None:
    made = [await submit(store) for _ in range(5)]
    await admin.execute("UPDATE antiphon.jobs SET created_at = $1", datetime(2026, 1, 1, tzinfo=UTC))
    listed = [job.id for job in await store.tenant(ACME).list(Listing(limit=5))]
    assert listed == sorted((job.id for job in made), reverse=True)


async def test_a_retry_that_waits_counts_as_waiting_and_has_no_place_yet(store: PostgresStore) -> None:
    await submit(store)
    await store.queue().fail(await claim(store), PROBLEM, retry_in=3600.0)
    standing = await store.tenant(ACME).standing()
    assert (standing.pending, standing.oldest_seconds, standing.ahead) == (1, None, None)
