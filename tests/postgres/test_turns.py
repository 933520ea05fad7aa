"""The turn with many tenants, what any replica does for all, and what operators see of it."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from pipeline.jobs import Tenant
from pipeline.settings import QueueSettings
from pipeline.store import Swept
from pipeline.store.postgres import PostgresStore, tending
from pipeline.store.postgres.queries import SQL
from tests.conformance.store_suite.making import (
    ACME,
    GLOBEX,
    LEASE,
    PROBLEM,
    TRANSCRIPT,
    USAGE,
    claim,
    due,
    nothing_ready,
    submit,
)

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

VIEWS = (
    *("queue_ready", "queue_depth", "queue_lately", "queue_tenants"),
    *("queue_leases", "queue_dead", "queue_undelivered"),
)


async def as_chain(admin: Admin, statement: str) -> list[asyncpg.Record]:
    async with admin.transaction():
        await admin.execute("SET LOCAL ROLE antiphon_chain")
        return await admin.fetch(statement)


async def test_many_tenants_whose_jobs_were_cancelled_are_passed_in_one_claim(store: PostgresStore) -> None:
    for number in range(60):
        tenant = Tenant(f"gone-{number:02}")
        await store.tenant(tenant).cancel((await submit(store, tenant)).id)
    waiting = await submit(store, Tenant("here"))

    assert (await claim(store)).job.id == waiting.id
    assert await nothing_ready(store)


async def test_a_head_job_that_somebody_else_holds_does_not_keep_a_claim_going_round(
    store: PostgresStore, admin: Admin
) -> None:
    held = await submit(store)
    other = await submit(store, GLOBEX)
    async with admin.transaction():
        await admin.execute("SELECT FROM antiphon.jobs WHERE id = $1 FOR UPDATE", held.id)
        assert (await claim(store)).job.id == other.id
        assert await nothing_ready(store)

    assert (await claim(store)).job.id == held.id


async def test_rescues_and_retries_of_many_batches_are_all_done_at_once(
    store: PostgresStore, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in ("RESCUED_AT_ONCE", "DUE_AT_ONCE", "JOBS_AT_ONCE"):
        monkeypatch.setattr(tending, batch, 2)
    for _ in range(10):
        await submit(store)
    for number in range(10):
        taken = await claim(store)
        if number < 5:
            await store.queue().fail(taken, PROBLEM, retry_in=20.0)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now()")
    await admin.execute("UPDATE antiphon.jobs SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")

    tended = await store.queue().tend()
    assert (tended.rescued, tended.due) == (5, 5)
    for _ in range(10):
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
    await admin.execute("UPDATE antiphon.jobs SET expires_at = now()")
    assert await store.queue().sweep() == Swept(expired=10)


async def test_a_tenant_that_fell_out_of_the_turn_is_found_by_the_sweep_once(
    store: PostgresStore, admin: Admin
) -> None:
    for tenant in (ACME, GLOBEX):
        await submit(store, tenant)
    await admin.execute("UPDATE antiphon.tenants SET ready = false WHERE tenant_id = 'acme'")
    await admin.execute("DELETE FROM antiphon.tenants WHERE tenant_id = 'globex'")
    assert await nothing_ready(store)

    assert (await store.queue().sweep()).repaired == 2
    assert (await store.queue().sweep()).repaired == 0
    assert {(await claim(store)).job.tenant for _ in range(2)} == {ACME, GLOBEX}


async def test_a_tenant_that_runs_all_it_may_has_not_fallen_out_of_the_turn(dsn: str, admin: Admin) -> None:
    async with PostgresStore(dsn, settings=QueueSettings(max_running=1)) as limited:
        for _ in range(2):
            await submit(limited)
        await claim(limited)
        assert await nothing_ready(limited)

        assert (await limited.queue().sweep()).repaired == 0


async def test_usage_outlives_the_job_and_is_one_row_an_end(store: PostgresStore, admin: Admin) -> None:
    await submit(store)
    await store.queue().fail(await claim(store), PROBLEM, retry_in=0.0)
    taken = await claim(store)
    taken.engine_seconds = 1.25
    await store.queue().commit(taken, TRANSCRIPT, USAGE)
    await store.tenant(ACME).delete(taken.job.id)

    [used] = await admin.fetch("SELECT * FROM antiphon.usage")
    assert (used["job_id"], used["tenant_id"], used["attempt"]) == (taken.job.id, "acme", 2)
    assert (used["outcome"], used["mode"], used["model"]) == ("completed", "downmix", "mock")
    assert (used["media_seconds"], used["speech_seconds"]) == (USAGE.media_seconds, USAGE.speech_seconds)
    assert (used["processing_seconds"], used["engine_seconds"]) == (USAGE.processing_seconds, 1.25)


async def test_the_health_of_the_queue_tells_what_it_did_lately(store: PostgresStore, admin: Admin) -> None:
    for _ in range(5):
        await submit(store)
    await submit(store, GLOBEX)
    await store.queue().fail(await claim(store), PROBLEM, retry_in=None)
    await store.queue().fail(await claim(store), PROBLEM, retry_in=20.0)
    await claim(store)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now() - interval '7 seconds'")
    await admin.execute("UPDATE antiphon.jobs SET ready_at = now() - interval '9 seconds' WHERE status = 'pending'")
    health = await store.queue().health()

    assert (health.pending, health.waiting, health.running, health.tenants) == (3, 1, 1, 2)
    assert (health.started, health.retried, health.lost, health.failed) == (3, 1, 0, 1)
    assert 7 <= health.late_seconds < 60
    assert 9 <= health.oldest_seconds < 60
    assert 0 < health.wait_seconds_p50 <= health.wait_seconds_p99

    await store.queue().tend()
    assert (await store.queue().health()).lost == 1


async def test_an_old_snapshot_is_told_of(store: PostgresStore, dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute("SELECT 1")
        assert (await store.queue().health()).oldest_snapshot_seconds > 0
    await connection.close()


async def test_an_empty_queue_is_healthy(store: PostgresStore) -> None:
    health = await store.queue().health()
    assert (health.pending, health.oldest_seconds, health.late_seconds, health.wait_seconds_p99) == (0, 0.0, 0.0, 0.0)


async def test_operators_see_whose_turn_it_is_who_works_and_what_failed(store: PostgresStore, admin: Admin) -> None:
    await submit(store)
    await store.queue().fail(await claim(store), PROBLEM, retry_in=None)
    running = await submit(store)
    await claim(store)
    await submit(store)
    await submit(store, GLOBEX)
    await admin.execute("UPDATE antiphon.tenants SET weight = 3 WHERE tenant_id = 'globex'")

    tenants = await as_chain(admin, "SELECT tenant_id, place, share, pending, running FROM antiphon.queue_tenants")
    assert {tuple(row.values()) for row in tenants} == {("acme", 1, 0.25, 1, 1), ("globex", 2, 0.75, 1, 0)}
    [lease] = await as_chain(admin, "SELECT job_id, replica, stage, waits FROM antiphon.queue_leases")
    assert tuple(lease.values()) == (running.id, "one", "pending", False)
    [dead] = await as_chain(admin, "SELECT tenant_id, code, attempt FROM antiphon.queue_dead")
    assert tuple(dead.values()) == ("acme", "media-unreachable", 1)


async def test_operators_see_since_when_each_tenant_waits_and_jobs_that_lost_a_worker_wait_too(
    store: PostgresStore, admin: Admin
) -> None:
    for tenant in (ACME, ACME, GLOBEX):
        await submit(store, tenant)
    await admin.execute("UPDATE antiphon.jobs SET ready_at = now() - interval '9 seconds' WHERE tenant_id = 'globex'")
    await admin.execute("UPDATE antiphon.jobs SET attempt = 1, losses = 1 WHERE tenant_id = 'globex'")

    [acme, globex] = await as_chain(admin, "SELECT * FROM antiphon.queue_tenants ORDER BY tenant_id")
    assert (acme["pending"], globex["pending"]) == (2, 1)
    assert acme["oldest_seconds"] < 9 <= globex["oldest_seconds"]
    assert (await store.queue().health()).pending == 3


async def test_operators_see_which_events_were_not_delivered_and_why(store: PostgresStore, admin: Admin) -> None:
    for _ in range(3):
        await submit(store, callback_url="https://app.test/hook")
        await store.queue().commit(await claim(store), TRANSCRIPT, USAGE)
    delivered, refused, unheard = await due(store)
    tried = store.outbox().tried
    await tried(delivered, seconds=0.1, status=204, error=None, retry_in=None)
    await tried(refused, seconds=0.1, status=410, error=None, retry_in=None)
    await tried(unheard, seconds=0.1, status=503, error=None, retry_in=0.0)
    [again] = await due(store)
    await tried(again, seconds=10.0, status=None, error="timeout", retry_in=5.0)

    rows = await as_chain(admin, "SELECT * FROM antiphon.queue_undelivered")
    assert {
        (row["webhook_id"], row["tries"], row["next_try_at"] is None, row["answer"], row["error"]) for row in rows
    } == {
        (refused.id, 1, True, 410, None),
        (unheard.id, 2, False, None, "timeout"),
    }


async def test_the_depth_is_counted_in_the_index_of_head_jobs_without_a_look_at_their_rows(
    store: PostgresStore, admin: Admin
) -> None:
    await submit(store)
    async with admin.transaction():
        for way in ("seqscan", "bitmapscan", "indexscan"):  # what is left is an index alone, if that is possible at all
            await admin.execute(f"SET LOCAL enable_{way} = off")
        await admin.execute("SET LOCAL ROLE antiphon_chain")
        plan = await admin.fetch("EXPLAIN SELECT * FROM antiphon.queue_ready")
    assert any("Index Only Scan using jobs_head on jobs" in row[0] for row in plan)


@pytest.mark.parametrize("view", VIEWS)
async def test_the_door_looks_through_no_view(store: PostgresStore, dsn: str, view: str) -> None:
    await submit(store)
    connection = await asyncpg.connect(dsn)
    await connection.execute(SQL["enter"].replace("true", "false"), "antiphon_door", "acme", "on")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch(f"SELECT * FROM antiphon.{view}")
    await connection.close()


async def test_a_heartbeat_does_not_wait_for_checkpoints_that_are_being_written(
    store: PostgresStore, admin: Admin
) -> None:
    await submit(store)
    running = await claim(store)
    async with admin.transaction():
        assert await admin.fetchval(SQL["hold"], running.job.id, running.token)
        assert (await store.queue().renew([running], lease_seconds=LEASE)).kept == {running.token}
