"""The claimer takes no more than it may hold, keeps some credit back, and leaves alone what has lost a worker."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job, JobStatus, Tenant
from pipeline.observer import Ending
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from tests.conformance.store_suite.making import ACME, GLOBEX, claim, submit
from tests.stages.gates import Book, Gate, standing, working
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
    """A job of acme's, and behind it one of globex's that has lost a worker."""
    store = MemoryStore()
    await submit(store, GLOBEX)
    await claim(store, replica="dead", lease=0.0)
    await store.queue().tend()
    await submit(store)
    return store


def lonely(store: MemoryStore) -> Job:
    return next(row.job for row in store.rows.values() if row.job.losses)


async def test_a_job_that_lost_a_worker_runs_alone(store: MemoryStore, tmp_path: Path) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(1)
        await submit(store, INITECH)
        await anyio.wait_all_tasks_blocked()
        assert [await standing(store, tenant) for tenant in (ACME, GLOBEX, INITECH)] == [(0, 1), (0, 1), (1, 0)]
        assert len(gate.entered) == 1
        gate.exit.release()
        await gate.holds(2)
        assert len(gate.entered) == 2
        assert [await standing(store, tenant) for tenant in (ACME, GLOBEX, INITECH)] == [(0, 0), (0, 1), (1, 0)]
        gate.exit.release()
        await gate.holds(3)
        gate.exit.release()
    assert [claim.job.tenant for claim in gate.entered] == [ACME, GLOBEX, INITECH]
    assert {row.job.status for row in store.rows.values()} == {JobStatus.COMPLETED}


async def test_a_lease_that_is_lost_before_the_job_began_is_no_loss_of_its(store: MemoryStore, tmp_path: Path) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(1)
        await store.queue().void_leases()
        assert (lonely(store).attempt, lonely(store).losses) == (1, 1)
        gate.exit.release()
        await gate.holds(2)
        await store.queue().void_leases()
        assert max(row.job.losses for row in store.rows.values()) == 2
        gate.exit.release()
        gate.exit.release()


async def test_a_job_that_waits_to_be_alone_can_be_cancelled(store: MemoryStore, tmp_path: Path) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path):
        await gate.holds(1)
        await store.tenant(GLOBEX).cancel(lonely(store).id)
        await until(lambda: lonely(store).status is JobStatus.CANCELLED)
        await submit(store, INITECH)
        await gate.holds(2)
        gate.exit.release()
        gate.exit.release()


async def test_a_job_that_waits_to_be_alone_is_given_back_by_a_replica_that_drains(
    store: MemoryStore, tmp_path: Path
) -> None:
    gate = Gate()
    async with working(store.queue(), gate, tmp_path) as chain:
        await gate.holds(1)
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
        await gate.holds(2)
        gate.exit.release()
    assert [(attempt, ending) for attempt, ending, _ in book.endings] == [
        (1, Ending.RESULT),
        (2, Ending.FAILURE),
        (2, Ending.RESULT),
    ]


async def test_two_replicas_that_wait_to_be_alone_do_not_wait_for_each_other(
    store: MemoryStore, tmp_path: Path
) -> None:
    await submit(store, INITECH)
    await claim(store, replica="dead", lease=1e9)  # acme's
    await claim(store, replica="dead", lease=1e9)  # globex's
    await claim(store, replica="dead", lease=1e9)  # initech's
    await store.queue().void_leases()
    await submit(store)
    gate = Gate()
    async with working(store.queue(), gate, tmp_path / "one"), working(store.queue(), gate, tmp_path / "other"):
        for jobs in range(4):
            await gate.holds(jobs + 1)
            gate.exit.release()
    assert {row.job.status for row in store.rows.values()} == {JobStatus.COMPLETED}
