"""Two connections that meet on purpose – and again with the part taken out that keeps them from harming each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import TypeAlias

import anyio
import asyncpg
import pytest
from anyio.lowlevel import checkpoint

from pipeline.claim import Claim
from pipeline.errors import JobFinished, NotFound, QuotaExceeded
from pipeline.jobs import JobStatus
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, JobQueue, Swept, TenantTerms, Unavailable
from pipeline.store.postgres import PostgresStore, database, turn
from pipeline.store.postgres.queries import SQL
from tests.conformance.store_suite.making import ACME, LEASE, TRANSCRIPT, USAGE, a_request, claim, nothing_ready, submit
from tests.postgres.paused import Running, meet, paused

pytestmark = pytest.mark.postgres

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

either_order = pytest.mark.parametrize("claim_first", [True, False], ids=["claim first", "submit first"])


@pytest.fixture
async def without_the_shared_lock(admin: Admin) -> AsyncIterator[None]:
    """Waking a tenant takes no lock that a claim could see."""
    whole = await admin.fetchval("SELECT pg_get_functiondef('antiphon.wake(text[])'::regprocedure)")
    lock = whole[whole.index("    PERFORM pg_advisory_xact_lock_shared") : whole.index("    INSERT")]
    await admin.execute(whole.replace(lock, ""))
    yield
    await admin.execute(whole)


@pytest.fixture
def without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settling statement takes the lease of its job, whoever has it."""
    fence = "DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 "
    assert fence in SQL["settle"]
    unfenced = fence.replace("token = $2", "$2::uuid IS NOT NULL")
    monkeypatch.setitem(SQL, "settle", SQL["settle"].replace(fence, unfenced))


@pytest.fixture
def without_the_shield(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling a caller reaches what it does with the database."""

    def bounded(seconds: float, *, shield: bool) -> anyio.CancelScope:
        assert shield
        return anyio.move_on_after(seconds)

    monkeypatch.setattr(database, "anyio", SimpleNamespace(move_on_after=bounded))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a tenant waits for as long as the race takes."""
    monkeypatch.setattr(turn, "WAIT_SECONDS", 4.0)


def claiming(queue: JobQueue) -> Callable[[], Awaitable[Claim | None]]:
    return partial(queue.claim, replica="one", lease_seconds=LEASE)


async def submit_meets_the_claim_of_the_last_job(
    store: PostgresStore, dsn: str, admin: Admin, *, claim_first: bool
) -> None:
    """The claim takes its tenant out of the turn, since it cannot see the job that comes in at this moment."""
    await submit(store)
    async with paused(dsn) as first:
        if claim_first:
            both = await meet(admin, first, claiming(first.queue()), lambda: submit(store))
        else:
            both = await meet(admin, first, lambda: first.tenant(ACME).submit(a_request()), claiming(store.queue()))
    assert [call.error for call in both] == [None, None]


@either_order
async def test_a_submit_that_meets_the_claim_of_the_last_job_is_claimed_next(
    store: PostgresStore, dsn: str, admin: Admin, claim_first: bool
) -> None:
    await submit_meets_the_claim_of_the_last_job(store, dsn, admin, claim_first=claim_first)

    assert await store.queue().sweep() == Swept()
    await claim(store)


@either_order
@pytest.mark.usefixtures("without_the_shared_lock")
async def test_without_the_shared_lock_the_same_submit_is_overlooked(
    store: PostgresStore, dsn: str, admin: Admin, claim_first: bool
) -> None:
    await submit_meets_the_claim_of_the_last_job(store, dsn, admin, claim_first=claim_first)

    assert await nothing_ready(store)
    assert await store.queue().sweep() == Swept(repaired=1)
    await claim(store)


async def test_an_end_that_meets_the_claim_that_fills_its_tenant_makes_room(
    dsn: str, store: PostgresStore, admin: Admin
) -> None:
    settings = QueueSettings(max_running=2)
    async with PostgresStore(dsn, settings=settings) as limited, paused(dsn) as first:
        for _ in range(3):
            await submit(limited)
        running = await claim(limited)
        both = await meet(
            admin, first, claiming(first.queue(settings)), lambda: limited.queue().commit(running, TRANSCRIPT, USAGE)
        )

        assert [call.error for call in both] == [None, None]
        assert await limited.queue().sweep() == Swept()
        await claim(limited)


async def rescued(store: PostgresStore, admin: Admin) -> tuple[Claim, Claim]:
    """A claim whose lease ran out, and that of the worker who has the job now."""
    await submit(store)
    zombie = await claim(store)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now()")
    await store.queue().tend()
    return zombie, await claim(store, replica="two")


async def test_a_zombies_commit_after_a_rescue_touches_nothing(store: PostgresStore, admin: Admin) -> None:
    zombie, owner = await rescued(store, admin)
    with pytest.raises(Fenced):
        await store.queue().commit(zombie, TRANSCRIPT, USAGE)

    assert await store.tenant(ACME).transcript(owner.job.id) is None
    assert (await store.queue().renew([owner], lease_seconds=LEASE)).kept == {owner.token}
    await store.queue().commit(owner, TRANSCRIPT, USAGE)


@pytest.mark.usefixtures("without_the_token")
async def test_without_the_token_the_same_commit_is_taken_for_the_owners(store: PostgresStore, admin: Admin) -> None:
    zombie, owner = await rescued(store, admin)
    await store.queue().commit(zombie, TRANSCRIPT, USAGE)

    assert await store.tenant(ACME).transcript(owner.job.id) == TRANSCRIPT
    assert (await store.queue().renew([owner], lease_seconds=LEASE)).kept == frozenset()


async def test_a_commit_that_meets_its_own_rescue_is_fenced(store: PostgresStore, dsn: str, admin: Admin) -> None:
    job = await submit(store)
    zombie = await claim(store)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now()")
    async with paused(dsn) as first:
        _, commit = await meet(
            admin, first, first.queue().void_leases, lambda: store.queue().commit(zombie, TRANSCRIPT, USAGE)
        )

    assert isinstance(commit.error, Fenced)
    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.PENDING


GATE = 7577_01  # an advisory lock that nobody else takes


@pytest.fixture
async def slow_commit(admin: Admin) -> AsyncIterator[None]:
    """A claim's COMMIT is not answered before ``GATE`` opens, or its client asks to cancel it: too late, as may be."""
    body = f"""BEGIN
        BEGIN PERFORM pg_advisory_xact_lock({GATE}); EXCEPTION WHEN query_canceled THEN NULL; END;
        RETURN NULL;
    END"""
    await admin.execute(f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    await admin.execute(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON antiphon.leases"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    await admin.execute("SELECT pg_advisory_lock($1)", GATE)
    yield
    await admin.execute("SELECT pg_advisory_unlock_all()")
    await admin.execute("DROP FUNCTION wait CASCADE")


async def claim_cancelled_at_its_commit(store: PostgresStore, admin: Admin) -> tuple[bool, bool]:
    """Whether its caller had the claim, and whether the job was leased."""
    await submit(store)
    scope, call = anyio.CancelScope(), Running(claiming(store.queue()))

    async def begin() -> None:
        with scope:
            await call()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await call.done_or_waiting(admin)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        await admin.execute("SELECT pg_advisory_unlock($1)", GATE)
    with anyio.fail_after(5):
        while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            await checkpoint()
    return call.result is not None, await admin.fetchval("SELECT count(*) FROM antiphon.leases") == 1


@pytest.mark.usefixtures("slow_commit")
async def test_a_claim_whose_caller_is_cancelled_at_its_commit_is_known_to_its_caller(
    store: PostgresStore, admin: Admin
) -> None:
    assert await claim_cancelled_at_its_commit(store, admin) == (True, True)


async def leases(admin: Admin) -> int:
    return int(await admin.fetchval("SELECT count(*) FROM antiphon.leases"))


@pytest.mark.usefixtures("slow_commit")
@pytest.mark.parametrize("losses", [0, 1])
async def test_a_claim_that_is_committed_when_nobody_listens_any_more_is_given_back(
    store: PostgresStore, admin: Admin, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    job, queue = await submit(store), store.queue()
    await admin.execute("UPDATE antiphon.jobs SET attempt = $1, losses = $1", losses)
    claiming = partial(queue.claim_alone, idle=True) if losses else queue.claim
    assert await store.ping()  # the connection is there
    with monkeypatch.context() as hasty:
        hasty.setattr(database, "UNIT_SECONDS", 0.2)
        with pytest.raises(Unavailable):
            await claiming(replica="one", lease_seconds=LEASE)
    await queue.tend()
    assert await leases(admin) == 0
    await admin.execute("SELECT pg_advisory_unlock($1)", GATE)
    with anyio.fail_after(5):
        while not await leases(admin):
            await checkpoint()
    await queue.tend()

    given_back = await store.tenant(ACME).get(job.id)
    assert (given_back.status, given_back.attempt, given_back.losses) == (JobStatus.PENDING, losses, losses)
    assert await claiming(replica="one", lease_seconds=LEASE)


@pytest.mark.usefixtures("slow_commit", "without_the_shield")
async def test_without_the_shield_the_same_claim_is_leased_to_nobody(store: PostgresStore, admin: Admin) -> None:
    assert await claim_cancelled_at_its_commit(store, admin) == (False, True)


async def test_a_commit_that_meets_a_cancel_ends_as_cancelled(store: PostgresStore, dsn: str, admin: Admin) -> None:
    job = await submit(store)
    running = await claim(store)
    async with paused(dsn) as first:
        cancel = partial(first.tenant(ACME).cancel, job.id)
        both = await meet(admin, first, cancel, lambda: store.queue().commit(running, TRANSCRIPT, USAGE))

    assert [call.error for call in both] == [None, None]
    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.CANCELLED
    assert await store.tenant(ACME).transcript(job.id) is None
    await store.queue().commit(running, TRANSCRIPT, USAGE)  # a commit whose answer was lost is told the same again


async def test_a_cancel_that_meets_a_commit_comes_too_late(store: PostgresStore, dsn: str, admin: Admin) -> None:
    job = await submit(store)
    running = await claim(store)
    async with paused(dsn) as first:
        commit = partial(first.queue().commit, running, TRANSCRIPT, USAGE)
        _, cancel = await meet(admin, first, commit, lambda: store.tenant(ACME).cancel(job.id))

    assert isinstance(cancel.error, JobFinished)
    assert (await store.tenant(ACME).get(job.id)).status is JobStatus.COMPLETED


@pytest.mark.parametrize("delete_first", [True, False], ids=["delete first", "commit first"])
async def test_a_delete_and_a_commit_that_meet_do_not_wait_in_a_circle(
    store: PostgresStore, dsn: str, admin: Admin, delete_first: bool
) -> None:
    job = await submit(store)
    running = await claim(store)
    async with paused(dsn) as first:
        if delete_first:
            _, commit = await meet(
                admin,
                first,
                lambda: first.tenant(ACME).delete(job.id),
                lambda: store.queue().commit(running, TRANSCRIPT, USAGE),
            )
            assert isinstance(commit.error, Fenced)
        else:
            both = await meet(
                admin,
                first,
                lambda: first.queue().commit(running, TRANSCRIPT, USAGE),
                lambda: store.tenant(ACME).delete(job.id),
            )
            assert [call.error for call in both] == [None, None]

    with pytest.raises(NotFound):
        await store.tenant(ACME).get(job.id)
    outcome = "cancelled" if delete_first else "completed"
    assert await admin.fetchval("SELECT array_agg(outcome) FROM antiphon.usage") == [outcome]


async def test_two_claims_at_once_do_not_exceed_what_a_tenant_may_run(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    settings = QueueSettings(max_running=1)
    async with PostgresStore(dsn, settings=settings) as limited, paused(dsn) as first:
        for _ in range(2):
            await submit(limited)
        claims = await meet(
            admin,
            first,
            claiming(first.queue(settings)),
            claiming(limited.queue()),
        )

    assert [call.error for call in claims] == [None, None]
    assert [call.result is not None for call in claims] == [True, False]


async def test_a_submit_that_meets_that_of_the_last_job_that_may_wait_is_refused(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    await store.terms().set(TenantTerms(ACME, max_pending=1))
    async with paused(dsn) as first:
        both = await meet(admin, first, lambda: first.tenant(ACME).submit(a_request()), lambda: submit(store))

    assert [type(call.error) for call in both] == [type(None), QuotaExceeded]
    assert (await store.tenant(ACME).standing()).pending == 1


async def test_submits_far_from_their_limit_do_not_wait_for_one_another(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    await submit(store)  # its tenant is known, and in the turn
    async with paused(dsn) as first:
        first_of_two = Running(lambda: first.tenant(ACME).submit(a_request()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first_of_two)
            await first.reached.wait()
            with anyio.fail_after(5):
                await submit(store)
            assert not first_of_two.done.is_set()
            first.go.set()


async def test_a_claim_waits_for_the_only_tenant_that_is_ready(store: PostgresStore, dsn: str, admin: Admin) -> None:
    for _ in range(2):
        await submit(store)
    async with paused(dsn) as first:
        claims = await meet(
            admin,
            first,
            claiming(first.queue()),
            claiming(store.queue()),
        )

    assert all(isinstance(call.result, Claim) for call in claims)


async def test_two_replicas_that_tend_at_once_take_each_job_back_once(
    store: PostgresStore, dsn: str, admin: Admin
) -> None:
    for _ in range(2):
        await submit(store)
        await claim(store)
    await admin.execute("UPDATE antiphon.leases SET lease_until = now()")
    async with paused(dsn) as first:
        tended = await meet(admin, first, first.queue().tend, store.queue().tend)

    assert [call.error for call in tended] == [None, None]
    assert await admin.fetchval("SELECT array_agg(losses) FROM antiphon.jobs") == [1, 1]
