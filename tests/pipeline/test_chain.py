from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing

import pipeline.chain
from pipeline.chain import Chain
from pipeline.claim import Abandoned, Claim, Failure, Why
from pipeline.errors import EngineLost, Internal
from pipeline.observer import Ending
from pipeline.stage import Map, Sink, Source
from tests.pipeline.rig import Cut, Fetch, Hear, Join, Ledger, Piece, Plan, Taker, Writer, new_claim


def _chain(taker: Taker, writer: Writer, ledger: Ledger) -> Chain[Any]:
    return (Chain(taker, observe=ledger).then(Fetch(), workers=2, ahead=1).then(Cut()).then(Hear()).then(Join())).sink(
        writer
    )


class Gate(Map[Plan, Plan]):
    """Holds every item until opened."""

    def __init__(self) -> None:
        self.open, self.entered = anyio.Event(), anyio.Event()

    async def handle(self, claim: Claim, item: Plan) -> Plan:
        self.entered.set()
        await self.open.wait()
        return item


async def test_once_gives_the_same_result_as_run() -> None:
    ran, inline = Writer(), Writer()
    taker = Taker([Plan(tracks=3)])
    await _chain(taker, ran, Ledger()).run()
    claim = new_claim()
    await _chain(taker, inline, Ledger()).once(claim, Plan(tracks=3))
    assert inline.written[claim] == ran.written[taker.taken[0]] == [[0, 1, 2]]


async def test_once_settles_a_failure_and_closes_what_the_claim_held() -> None:
    writer, claim = Writer(), new_claim()
    closed: list[bool] = []
    claim.resources.callback(closed.append, True)
    await _chain(Taker([]), writer, Ledger()).once(claim, Plan(breaks_in="cut", tracks=2))
    [failure] = writer.written[claim]
    assert isinstance(failure, Failure)
    assert (failure.stage, closed) == ("cut", [True])


async def test_a_job_that_comes_to_nothing_fails_instead_of_staying_open() -> None:
    taker, writer = Taker([Plan(tracks=0)]), Writer()
    await _chain(taker, writer, Ledger()).run()
    [failure] = writer.written[taker.taken[0]]
    assert isinstance(failure.error, Internal)


async def test_the_one_error_of_a_task_group_is_told_and_not_the_group() -> None:
    class Grouped(Fetch):
        async def handle(self, claim: Claim, item: Plan) -> Plan:
            async with anyio.create_task_group() as group:
                group.start_soon(super().handle, claim, item)
            return item

    taker, writer = Taker([Plan(breaks_in="fetch")]), Writer()
    await Chain(taker).then(Grouped()).sink(writer).run()
    [failure] = writer.written[taker.taken[0]]
    assert isinstance(failure.error, ValueError)


async def test_drain_takes_no_more_and_finishes_what_is_in_hand() -> None:
    gate, taker, writer = Gate(), Taker([Plan()] * 20), Writer()
    chain = Chain(taker).then(gate).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        await anyio.wait_all_tasks_blocked()
        chain.drain()
        await anyio.wait_all_tasks_blocked()
        [[waited]] = writer.written.values()  # the claim that no hand had taken goes back at once
        assert waited.error.why is Why.STOPPED
        gate.open.set()
    results = [item for items in writer.written.values() for item in items]
    assert len(results) == len(taker.taken) < 20
    assert Plan() in results
    stopped = [item for item in results if isinstance(item, Failure)]
    assert all(isinstance(item.error, Abandoned) and item.error.why is Why.STOPPED for item in stopped)


async def test_a_full_chain_holds_the_source_back() -> None:
    gate, taker = Gate(), Taker([Plan()] * 50)
    chain = Chain(taker).then(gate, workers=2, ahead=3).sink(Writer())
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(taker.taken) == 2 + 3 + 1
        [full] = chain.statistics()
        assert (full.active, full.waiting) == (2, 4)
        gate.open.set()


async def test_stop_gives_back_what_is_in_hand() -> None:
    gate, taker, writer, ledger = Gate(), Taker([Plan()] * 3), Writer(), Ledger()
    chain = Chain(taker, observe=ledger).then(gate, workers=3).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        await anyio.wait_all_tasks_blocked()
        chain.stop()
    assert [e for endings in ledger.endings.values() for e in endings] == [Ending.GIVEN_UP] * 3
    assert all(f.error.why is Why.STOPPED for written in writer.written.values() for f in written)


async def test_a_result_that_could_not_be_written_yet_is_written_at_the_stop() -> None:
    class Away(Writer):
        away = True

        async def settle(self, claim: Claim, item: Any | Failure) -> None:
            if self.away:
                raise ConnectionError("the database went away")
            await super().settle(claim, item)

    taker, writer = Taker([Plan()]), Away()
    chain = Chain(taker).then(Fetch()).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await anyio.wait_all_tasks_blocked()
        writer.away = False
        chain.stop()
    assert writer.written[taker.taken[0]] == [Plan()]


async def test_abandon_cancels_the_work_in_hand() -> None:
    gate, taker, writer = Gate(), Taker([Plan()]), Writer()
    chain = Chain(taker).then(gate).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        taker.taken[0].abandon(Why.CANCELLED)
    [failure] = writer.written[taker.taken[0]]
    assert failure.error.why is Why.CANCELLED


async def test_nothing_is_written_once_the_lease_is_lost() -> None:
    gate, taker, writer, ledger = Gate(), Taker([Plan()]), Writer(), Ledger()
    chain = Chain(taker, observe=ledger).then(gate).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        taker.taken[0].abandon(Why.CANCELLED)
        taker.taken[0].abandon(Why.LEASE_LOST)
    assert not writer.tried
    assert ledger.endings == {taker.taken[0]: [Ending.FORFEITED]}


async def test_one_failed_track_stops_its_siblings() -> None:
    class FirstFails(Map[Piece, Piece]):
        async def handle(self, claim: Claim, item: Piece) -> Piece:
            if item.index == 0:
                raise ValueError("broken")
            await anyio.sleep_forever()
            return item

    taker, writer = Taker([Plan(tracks=3)]), Writer()
    await Chain(taker).then(Cut()).then(FirstFails(), workers=3).then(Join()).sink(writer).run()
    [failure] = writer.written[taker.taken[0]]
    assert isinstance(failure.error, ValueError)


async def test_a_result_at_the_sinks_door_is_not_lost_when_its_claim_is_abandoned() -> None:
    class Endless(Taker):
        async def claims(self) -> AsyncIterator[tuple[Claim, Plan]]:
            async for claim in super().claims():
                yield claim
            await anyio.sleep_forever()

    class Busy(Writer):
        def __init__(self) -> None:
            super().__init__()
            self.free = anyio.Event()

        async def settle(self, claim: Claim, item: Any | Failure) -> None:
            await self.free.wait()
            await super().settle(claim, item)

    taker, writer, ledger = Endless([Plan(), Plan()]), Busy(), Ledger()
    chain = Chain(taker, observe=ledger).then(Fetch()).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await anyio.wait_all_tasks_blocked()
        taker.taken[1].abandon(Why.CANCELLED)
        await anyio.wait_all_tasks_blocked()
        writer.free.set()
        await anyio.wait_all_tasks_blocked()
        assert set(writer.written) == set(taker.taken)
        chain.stop()


async def test_stop_gives_back_before_a_stage_that_is_slow_to_leave_is_left() -> None:
    left = anyio.Event()

    class SlowToLeave(Gate):
        @asynccontextmanager
        async def running(self) -> AsyncIterator[None]:
            yield
            with anyio.CancelScope(shield=True):  # as a lane is, until its batch has ended
                await left.wait()

    gate, taker, writer = SlowToLeave(), Taker([Plan()]), Writer()
    chain = Chain(taker).then(gate).sink(writer)
    async with anyio.create_task_group() as group:
        group.start_soon(chain.run)
        await gate.entered.wait()
        chain.stop()
        with anyio.fail_after(5):
            while not writer.written:
                await anyio.lowlevel.checkpoint()
        [failure] = writer.written[taker.taken[0]]
        assert failure.error.why is Why.STOPPED
        left.set()


async def test_results_that_cannot_be_written_do_not_hold_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.chain, "PAUSES", (0.0005,))
    taker = Taker([Plan(unwritable="result"), Plan(unwritable="anything"), Plan()])
    writer, ledger = Writer(taker=taker), Ledger()
    await Chain(taker, observe=ledger).then(Fetch()).sink(writer).run()
    assert [ledger.endings[claim] for claim in taker.taken] == [["failure"], ["forfeited"], ["result"]]


async def test_a_lost_engine_ends_the_chain_and_leaves_its_jobs_to_their_leases() -> None:
    class Dies(Map[Plan, Plan]):
        async def handle(self, claim: Claim, item: Plan) -> Plan:
            raise EngineLost("the device is gone")

    taker, writer, ledger = Taker([Plan()]), Writer(), Ledger()
    with pytest.raises(ExceptionGroup) as caught:
        await Chain(taker, observe=ledger).then(Dies()).sink(writer).run()
    assert caught.value.subgroup(EngineLost)
    assert ledger.endings == {taker.taken[0]: [Ending.FORFEITED]}
    assert not writer.tried


class Shaky(Map[Plan, Plan]):
    """Meets a transient error a given number of times."""

    transient = (ConnectionError,)
    tries = 3

    def __init__(self, times: int) -> None:
        self.times = times

    async def handle(self, claim: Claim, item: Plan) -> Plan:
        if self.times:
            self.times -= 1
            raise ConnectionError("a moment please")
        return item


def _at_mock_time(main: Any) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock})


@pytest.mark.parametrize(("times", "outcome"), [(2, "result"), (3, "failure")])
def test_a_transient_error_is_tried_again_in_place_a_bounded_number_of_times(times: int, outcome: str) -> None:
    async def main() -> None:
        ledger = Ledger()
        await Chain(Taker([Plan()]), observe=ledger).then(Shaky(times)).sink(Writer()).run()
        assert list(ledger.endings.values()) == [[outcome]]
        assert ledger.retries == [("shaky", 0.1), ("shaky", 0.2)]

    _at_mock_time(main)


def test_a_source_that_keeps_breaking_is_begun_again_more_and_more_slowly() -> None:
    class Away(Source[Plan]):
        async def claims(self) -> AsyncIterator[tuple[Claim, Plan]]:
            raise ConnectionError("the database went away")
            yield

    async def main() -> None:
        ledger = Ledger()
        chain = Chain(Away(), observe=ledger).then(Fetch()).sink(Writer())
        async with anyio.create_task_group() as group:
            group.start_soon(chain.run)
            await anyio.sleep(25)
            chain.drain()
        assert [wait for _, wait in ledger.retries] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]

    _at_mock_time(main)


def test_busy_and_blocked_are_told_apart() -> None:
    class Quick(Map[Plan, Plan]):
        async def handle(self, claim: Claim, item: Plan) -> Plan:
            await anyio.sleep(1)
            return item

    class Slow(Map[Plan, Plan]):
        async def handle(self, claim: Claim, item: Plan) -> Plan:
            await anyio.sleep(10)
            return item

    async def main() -> None:
        ledger = Ledger()
        await Chain(Taker([Plan()] * 3), observe=ledger).then(Quick()).then(Slow()).sink(Writer()).run()
        quick = [(turn.busy, turn.blocked) for turn in ledger.turns if turn.stage == "quick"]
        slow = [(turn.busy, turn.blocked) for turn in ledger.turns if turn.stage == "slow"]
        assert quick == [(1, 0), (1, 9), (1, 9)]
        assert slow == [(10, 0)] * 3

    _at_mock_time(main)


def test_a_split_that_nothing_gathers_is_refused_at_declaration() -> None:
    class Ignore(Sink[Any]):
        async def settle(self, claim: Claim, item: Any) -> None: ...

    with pytest.raises(ValueError, match="cut splits a job"):
        Chain(Taker([])).then(Fetch()).then(Cut()).sink(Ignore())


def test_a_chain_draws_itself() -> None:
    chain = _chain(Taker([]), Writer(), Ledger())
    assert str(chain) == "taker ▶ fetch ×2 (1 ahead) ▶ cut ×1 ▶ hear ×1 ▶ join ×1 ▶ writer ×1"


def test_stages_that_do_not_fit_are_a_type_error(tmp_path: Path) -> None:
    joined = tmp_path / "joined.py"
    lines = ["from pipeline.chain import Chain", "from tests.pipeline.rig import Cut, Fetch, Hear, Taker"]
    joined.write_text("\n".join([*lines, "Chain(Taker([])).then(Fetch()).then(Cut()).then(Hear())", ""]))
    misjoined = tmp_path / "misjoined.py"
    misjoined.write_text("\n".join([*lines, "Chain(Taker([])).then(Fetch()).then(Hear())", ""]))
    run = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    assert subprocess.run([*run, str(joined)], check=False).returncode == 0
    refused = subprocess.run([*run, str(misjoined)], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert 'Argument 1 to "then"' in refused.stdout
