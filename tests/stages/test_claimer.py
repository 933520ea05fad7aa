"""The claimer takes no more than it may hold, keeps some credit back, and leaves alone what has lost a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from pipeline.chain import Chain
from pipeline.claim import Claim
from pipeline.jobs import Job, JobStatus, Tenant
from pipeline.observer import Ending
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.store.rules import ALONE_SECONDS
from pipeline.transcript import Transcript
from tests.conformance.store_suite.making import ACME, GLOBEX, submit
from tests.stages.gates import SETTINGS, Book, Gate, standing, working
from tests.stages.waiting import until

INITECH = Tenant("initech")


async def test_no_more_jobs_are_open_than_may_be_in_flight(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    for _ in range(5):
        await submit(store)
    async with working(store.queue(), gate, tmp_path):
        for ended in range(4):
            await gate.holds(2 + ended)
            assert await standing(store) == (3 - ended, 2)
            gate.exit.release()
        gate.exit.release()
    assert await standing(store) == (0, 0)


async def test_each_attempt_has_a_scratch_folder_of_its_own_until_it_ends(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    await submit(store)
    await submit(store)
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(2)
        first, second = (anyio.Path(claim.scratch) for claim in gate.entered)
        assert first != second
        assert first.parent.parent == anyio.Path(tmp_path)
        gate.exit.release()
        await until(lambda: not Path(first).exists())
        assert await second.exists()
        gate.exit.release()
    assert not await second.parent.exists()


async def test_beyond_them_only_tenants_with_nothing_open_here_are_served(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    for _ in range(3):
        await submit(store)
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(2)
        for tenant in (GLOBEX, GLOBEX, INITECH):
            await submit(store, tenant)
        await gate.holds(3)
        assert [await standing(store, tenant) for tenant in (ACME, GLOBEX, INITECH)] == [(1, 2), (1, 1), (1, 0)]
        gate.exit.release()
        await gate.holds(4)
        # The first of acme's made room, and only initech had nothing open here.
        assert gate.entered[-1].job.tenant == INITECH
        for _ in range(5):
            gate.exit.release()
        await gate.holds(6)


# ── jobs that have lost a worker ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def store() -> MemoryStore:
    """A job of globex's that has just lost a worker."""
    store = MemoryStore()
    await lose(store)
    return store


async def lose(store: MemoryStore) -> None:
    """A job of globex's loses its worker."""
    await submit(store, GLOBEX)
    taken = await store.queue().claim(replica="dead", lease_seconds=0.0)
    assert taken is not None
    await store.queue().tend()


def lonely(store: MemoryStore) -> Job:
    return next(row.job for row in store.rows.values() if row.job.losses)


def long_since(store: MemoryStore) -> None:
    """Whatever has lost a worker has been ready for a minute."""
    for row in store.rows.values():
        row.ready_at -= ALONE_SECONDS * (row.job.losses > 0)


def waiting(store: MemoryStore) -> int:
    return sum(row.lease is not None and row.lease.waits for row in store.rows.values())


@asynccontextmanager
async def at_work(
    queue: MemoryJobQueue, gate: Gate, root: Path, store: MemoryStore
) -> AsyncIterator[Chain[Transcript]]:
    """A replica with a job of acme's that takes, for want of an idle one, the job that has lost a worker."""
    await submit(store)
    async with working(queue, gate, root) as chain:
        await until(lambda: [claim.job.tenant for claim in gate.entered] == [ACME])
        await lose(store)
        long_since(store)
        await until(lambda: waiting(store) == 1)
        yield chain


async def test_a_job_that_lost_a_worker_runs_alone(store: MemoryStore, tmp_path: Path) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(1)
        await submit(store, INITECH)
        await anyio.wait_all_tasks_blocked()
        assert [await standing(store, tenant) for tenant in (GLOBEX, INITECH)] == [(0, 1), (1, 0)]
        gate.exit.release()
        await gate.holds(2)
        gate.exit.release()
    assert [claim.job.tenant for claim in gate.entered] == [GLOBEX, INITECH]
    assert {row.job.status for row in store.rows.values()} == {JobStatus.COMPLETED}


async def test_it_begins_on_a_replica_at_work_when_all_else_has_ended_there(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with at_work(store.queue(), gate, tmp_path, store):
        await submit(store, INITECH)
        await anyio.wait_all_tasks_blocked()
        assert [await standing(store, tenant) for tenant in (ACME, GLOBEX, INITECH)] == [(0, 1), (0, 1), (1, 0)]
        for jobs in range(3):
            await gate.holds(jobs + 1)
            gate.exit.release()
    assert [claim.job.tenant for claim in gate.entered] == [ACME, GLOBEX, INITECH]


async def test_it_has_company_once_it_has_gone_further_than_the_worker_that_it_lost(
    store: MemoryStore, tmp_path: Path
) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(1)
        await submit(store, INITECH)
        gate.entered[0].engine_seconds = SETTINGS.checkpoint_seconds
        await gate.holds(2)
        gate.exit.release()
        gate.exit.release()
    assert [claim.job.tenant for claim in gate.entered] == [GLOBEX, INITECH]


async def test_a_replica_at_work_is_not_closed_for_one_that_has_just_lost_its_worker(tmp_path: Path) -> None:
    class Asked(MemoryJobQueue):
        times = 0

        async def claim_alone(self, *, replica: str, lease_seconds: float, idle: bool) -> Claim | None:
            self.times += 1
            return await super().claim_alone(replica=replica, lease_seconds=lease_seconds, idle=idle)

    store, gate = MemoryStore(), Gate()
    queue = Asked(store)
    await submit(store)
    async with working(queue, gate, tmp_path):
        await gate.holds(1)
        await lose(store)
        asked = queue.times
        await until(lambda: queue.times > asked + 1)
        await submit(store, INITECH)
        await gate.holds(2)
        assert [claim.job.tenant for claim in gate.entered] == [ACME, INITECH]
        for _ in range(3):
            gate.exit.release()
        await gate.holds(3)


async def test_while_it_waits_to_be_alone_a_newcomer_is_served_by_another_replica(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with at_work(store.queue(), gate, tmp_path / "one", store):
        await lose(store)
        long_since(store)
        await submit(store, INITECH)
        await submit(store, ACME)
        async with working(store.queue(), gate, tmp_path / "other"):
            # It is idle, so it begins with the second one, and is open to all others behind it.
            await gate.holds(2)
            assert waiting(store) == 1
            gate.entered[1].engine_seconds = SETTINGS.checkpoint_seconds
            await gate.holds(3)
            for _ in range(5):
                gate.exit.release()
            await gate.holds(5)
    assert {row.job.status for row in store.rows.values()} == {JobStatus.COMPLETED}


async def test_after_a_crash_all_others_go_turn_about_with_those_that_lost_their_worker(
    store: MemoryStore, tmp_path: Path
) -> None:
    gate = Gate()
    await lose(store)
    await submit(store, INITECH)
    async with working(store.queue(), gate, tmp_path):
        for jobs in range(3):
            await gate.holds(jobs + 1)
            await anyio.sleep(2 * SETTINGS.poll_seconds)  # which the job takes
            gate.exit.release()
    assert [claim.job.tenant for claim in gate.entered] == [GLOBEX, INITECH, GLOBEX]


async def test_a_lease_that_is_lost_before_the_job_began_is_no_loss_of_its(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with at_work(store.queue(), gate, tmp_path, store):
        await store.queue().void_leases()
        assert (lonely(store).attempt, lonely(store).losses) == (1, 1)
        gate.exit.release()
        await gate.holds(2)
        gate.exit.release()
        gate.exit.release()


async def test_a_job_that_waits_to_be_alone_can_be_cancelled(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with at_work(store.queue(), gate, tmp_path, store):
        await store.tenant(GLOBEX).cancel(lonely(store).id)
        await until(lambda: lonely(store).status is JobStatus.CANCELLED)
        await submit(store, INITECH)
        await gate.holds(2)
        gate.exit.release()
        gate.exit.release()


async def test_a_job_that_waits_to_be_alone_is_given_back_by_a_replica_that_drains(tmp_path: Path) -> None:
    store, gate = MemoryStore(), Gate()
    async with at_work(store.queue(), gate, tmp_path, store) as chain:
        chain.drain()
        await until(lambda: lonely(store).status is JobStatus.PENDING)
        assert (lonely(store).attempt, lonely(store).losses) == (1, 1)
        gate.exit.release()


async def test_a_job_that_cannot_be_begun_is_given_back_and_taken_again(store: MemoryStore, tmp_path: Path) -> None:
    class Away(MemoryJobQueue):
        begun = 0

        async def begin(self, claim: Claim) -> None:
            self.begun += 1
            if self.begun == 1:
                raise Unavailable("The database cannot be used right now.")
            await super().begin(claim)

    gate, book = Gate(), Book()
    async with working(Away(store), gate, tmp_path, book):
        await gate.holds(1)
        gate.exit.release()
    assert [(attempt, ending) for attempt, ending, _ in book.endings] == [(2, Ending.FAILURE), (2, Ending.RESULT)]


async def test_two_replicas_that_wait_to_be_alone_do_not_wait_for_each_other(
    store: MemoryStore, tmp_path: Path
) -> None:
    for _ in range(2):
        await lose(store)
    await submit(store)
    gate = Gate()
    async with working(store.queue(), gate, tmp_path / "one"), working(store.queue(), gate, tmp_path / "other"):
        for jobs in range(4):
            await gate.holds(jobs + 1)
            gate.exit.release()
    assert {row.job.status for row in store.rows.values()} == {JobStatus.COMPLETED}
