"""The heartbeat holds what was taken for as long as it is this replica's own, and hears when it is not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from anyio import current_time
from structlog.typing import EventDict

from pipeline.claim import Claim
from pipeline.jobs import JobRequest, JobStatus
from pipeline.observer import Ending
from pipeline.stage import Map
from pipeline.store import Renewal, Swept, Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import Transcript
from tests.conformance.store_suite.making import ACME, TRANSCRIPT, claim, submit
from tests.stages.gates import SETTINGS, Book, working
from tests.stages.waiting import at_mock_time

HOUR = 3600.0


class Work(Map[JobRequest, Transcript]):
    """A long recording."""

    async def handle(self, claim: Claim, item: JobRequest) -> Transcript:
        claim.advance("transcribing", 0.5)
        await anyio.sleep(HOUR)
        return TRANSCRIPT


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


def test_what_a_job_has_cost_so_far_outlives_its_worker(tmp_path: Path) -> None:
    class Costly(Work):
        async def handle(self, claim: Claim, item: JobRequest) -> Transcript:
            claim.advance("transcribing", 0.5)
            await anyio.sleep(10)  # and has told of its progress
            claim.engine_seconds += 30.0
            return await super().handle(claim, item)

    async def main() -> None:
        store = MemoryStore()
        job = await submit(store)
        async with working(store.queue(), Costly(), tmp_path):
            await anyio.sleep(12)
            await store.tenant(ACME).delete(job.id)
        assert store.usage[job.id].engine_seconds == 30.0

    at_mock_time(main)


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_job_that_its_client_no_longer_wants_is_stopped_at_once(tmp_path: Path, end: str) -> None:
    async def main() -> None:
        store, book = MemoryStore(), Book()
        job = await submit(store)
        async with working(store.queue(), Work(), tmp_path, book):
            await anyio.sleep(100)
            await getattr(store.tenant(ACME), end)(job.id)
            asked = current_time()
            await anyio.sleep(1)
        [(_, ending, time)] = book.endings
        assert ending is (Ending.GIVEN_UP if end == "cancel" else Ending.FORFEITED)
        assert time == asked

    at_mock_time(main)


def test_a_cancel_that_nobody_heard_of_is_known_with_the_next_beat(tmp_path: Path) -> None:
    class Deaf(MemoryJobQueue):
        async def cancels(self) -> None:
            await anyio.sleep_forever()

    async def main() -> None:
        store, book = MemoryStore(), Book()
        job = await submit(store)
        async with working(Deaf(store), Work(), tmp_path, book):
            await anyio.sleep(100)
            await store.tenant(ACME).cancel(job.id)
            asked = current_time()
            await anyio.sleep(SETTINGS.heartbeat_seconds + 1)
        [(_, ending, time)] = book.endings
        assert ending is Ending.GIVEN_UP
        assert asked < time <= asked + SETTINGS.heartbeat_seconds

    at_mock_time(main)


def test_a_turn_that_had_to_be_repaired_is_told_as_an_error(tmp_path: Path, logs: list[EventDict]) -> None:
    class Broken(MemoryJobQueue):
        async def sweep(self) -> Swept:
            return Swept(repaired=2)

    async def main() -> None:
        async with working(Broken(MemoryStore()), Work(), tmp_path):
            await anyio.sleep(1)

    at_mock_time(main)
    assert {"event": "turn-repaired", "log_level": "error", "tenants": 2} in logs


def test_what_was_kept_long_enough_is_erased_while_a_replica_works(tmp_path: Path) -> None:
    async def main() -> None:
        store = MemoryStore()
        await submit(store, retention_seconds=60)
        async with working(store.queue(), Work(), tmp_path):
            await anyio.sleep(HOUR + 30)
            assert len(store.rows) == 1
            await anyio.sleep(30 + 36)
            assert not store.rows

    at_mock_time(main)
