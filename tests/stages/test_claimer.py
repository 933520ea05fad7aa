"""The claimer takes no more than it may hold, and holds what it took for as long as it is really its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import current_time

from pipeline.chain import Chain
from pipeline.claim import Claim
from pipeline.jobs import JobRequest, JobStatus, Tenant
from pipeline.observer import Ending, Observer
from pipeline.settings import QueueSettings
from pipeline.stage import Map
from pipeline.store import Renewal, Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import Transcript
from stages.claimer import Claimer
from stages.committer import Committer
from tests.conformance.store_suite.making import ACME, TRANSCRIPT, claim, submit
from tests.stages.waiting import at_mock_time, until

SETTINGS = QueueSettings(jobs_in_flight=2, lease_seconds=60.0, heartbeat_seconds=15.0)
HOUR = 3600.0


class Work(Map[JobRequest, Transcript]):
    """A long recording."""

    async def handle(self, claim: Claim, item: JobRequest) -> Transcript:
        claim.advance("transcribing", 0.5)
        await anyio.sleep(HOUR)
        return TRANSCRIPT


class Gate(Map[JobRequest, Transcript]):
    """Keeps every job until one is let out; each has a file in its scratch folder."""

    def __init__(self) -> None:
        self.entered: list[Claim] = []
        self.exit = anyio.Semaphore(0)

    async def holds(self, jobs: int) -> None:
        """Wait until so many have come in, ever."""
        await until(lambda: len(self.entered) >= jobs)
        await anyio.wait_all_tasks_blocked()

    async def handle(self, claim: Claim, item: JobRequest) -> Transcript:
        await anyio.Path(claim.scratch).mkdir()
        await anyio.Path(claim.scratch / "media-0").write_text("a recording")
        self.entered.append(claim)
        await self.exit.acquire()
        return TRANSCRIPT


class Book(Observer):
    """Attempt, ending and time of every claim that has ended."""

    def __init__(self) -> None:
        self.endings: list[tuple[int, Ending, float]] = []

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        self.endings.append((claim.job.attempt, ending, current_time()))


class Faulty(MemoryJobQueue):
    """Its heartbeats ``fail`` or ``hang`` as often as ``faults`` says, or find every job ``cancelled``."""

    def __init__(self, store: MemoryStore, *faults: str) -> None:
        super().__init__(store)
        self.faults = [*faults]

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Renewal:
        match self.faults.pop(0) if self.faults else None:
            case "fail":
                raise Unavailable("The database cannot be used right now.")
            case "hang":
                await anyio.sleep_forever()
            case "cancelled":
                return Renewal(kept=frozenset(), cancelled=frozenset(claim.token for claim in claims))
        return await super().renew(claims, lease_seconds=lease_seconds)


@asynccontextmanager
async def working(
    queue: MemoryJobQueue, stage: Map[JobRequest, Transcript], root: Path, book: Book | None = None
) -> AsyncIterator[None]:
    """A replica at work, which is drained at the end of the block."""
    source, sink = Claimer(queue, SETTINGS, root), Committer(queue, SETTINGS)
    chain = Chain(source, observe=book).then(stage, workers=8).sink(sink)
    async with anyio.create_task_group() as group:
        await group.start(chain.run)
        yield
        chain.drain()


async def standing(store: MemoryStore, tenant: Tenant = ACME) -> tuple[int, int]:
    """How many jobs of a tenant wait, and how many run."""
    now = await store.tenant(tenant).standing()
    return now.pending, now.running


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


def test_a_job_whose_worker_is_gone_is_taken_up_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        await submit(store)
        await claim(store, replica="dead", lease=0.0)
        async with working(store.queue(), Work(), tmp_path, book):
            await anyio.sleep(1)  # long before the first beat
        assert [(attempt, ending) for attempt, ending, _ in book.endings] == [(2, Ending.RESULT)]

    at_mock_time(main)


def test_a_job_whose_worker_dies_is_taken_over_when_its_lease_has_run_out(tmp_path: Path) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        await submit(store)
        await claim(store, replica="dead", lease=20.0)
        async with working(store.queue(), Work(), tmp_path, book):
            await anyio.sleep(22)  # it is looked for every second
        assert [(attempt, ending) for attempt, ending, _ in book.endings] == [(2, Ending.RESULT)]

    at_mock_time(main)


@pytest.mark.parametrize("faults", [(), ("fail",) * 2, ("fail", "fail", "") * 9], ids=["none", "one gap", "many gaps"])
def test_beats_keep_a_job_for_as_long_as_it_takes_though_two_in_a_row_be_lost(
    tmp_path: Path, faults: Sequence[str]
) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        job = await submit(store)
        async with working(Faulty(store, *faults), Work(), tmp_path, book):
            await anyio.sleep(HOUR + 1)
        assert [(attempt, ending) for attempt, ending, _ in book.endings] == [(1, Ending.RESULT)]
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.COMPLETED

    at_mock_time(main)


@pytest.mark.parametrize("how", ["fail", "hang"])
def test_a_claim_that_misses_its_beats_is_dropped_before_another_may_take_it(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        await submit(store)
        began = current_time()
        async with working(Faulty(store, *[how] * 99), Work(), tmp_path, book):
            await anyio.sleep(1)
        [(attempt, ending, time)] = book.endings
        assert (attempt, ending) == (1, Ending.FORFEITED)
        assert 45 < time - began < 60

    at_mock_time(main)


def test_a_claim_whose_lease_does_not_come_back_is_dropped_and_its_job_done_again(tmp_path: Path) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        job = await submit(store)
        async with working(store.queue(), Work(), tmp_path, book):
            await anyio.sleep(100)
            await store.queue().void_leases()
            lost = current_time()
            await anyio.sleep(HOUR + 15)
        assert [(attempt, ending) for attempt, ending, _ in book.endings] == [
            (1, Ending.FORFEITED),
            (2, Ending.RESULT),
        ]
        assert book.endings[0][2] - lost <= SETTINGS.heartbeat_seconds
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.COMPLETED

    at_mock_time(main)


def test_a_job_that_the_answer_calls_cancelled_is_stopped_and_settled_so(tmp_path: Path) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        job = await submit(store)
        async with working(Faulty(store, "", "cancelled"), Work(), tmp_path, book):
            await anyio.sleep(31)
        assert [(attempt, ending) for attempt, ending, _ in book.endings] == [(1, Ending.GIVEN_UP)]
        assert (await store.tenant(ACME).get(job.id)).status is JobStatus.CANCELLED

    at_mock_time(main)


@pytest.mark.parametrize("misses", [0, 3])
def test_progress_reaches_whoever_asks_within_seconds(tmp_path: Path, misses: int) -> None:
    class Deaf(MemoryJobQueue):
        misses: int

        async def report(self, claims: Sequence[Claim]) -> None:
            if self.misses:
                self.misses -= 1
                raise Unavailable("The database cannot be used right now.")
            await super().report(claims)

    async def main() -> None:
        store = MemoryStore()
        queue = Deaf(store)
        queue.misses = misses
        job = await submit(store)
        async with working(queue, Work(), tmp_path):
            await anyio.sleep(misses + 1.5)
            told = (await store.tenant(ACME).get(job.id)).progress
            assert told.stage == "transcribing"
            assert 0.5 < told.fraction < 0.6

    at_mock_time(main)
