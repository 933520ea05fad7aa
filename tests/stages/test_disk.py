"""Disk for decoded tracks: lent in order of arrival, never half, and always given back."""

from __future__ import annotations

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Internal, MediaTooLarge
from stages.disk import STEP, Disk
from tests.stages.waiting import at_mock_time


async def test_what_is_more_than_there_is_at_all_is_too_large() -> None:
    with pytest.raises(MediaTooLarge, match="AUDIO__SCRATCH_BYTES"):
        await Disk(100).borrow(101)
    await Disk(100).borrow(100)


async def test_it_is_lent_in_order_of_arrival_even_where_a_later_one_would_fit() -> None:
    disk, served = Disk(100), list[str]()

    async def borrow(name: str, count: int) -> None:
        loan = await disk.borrow(count)
        served.append(name)
        loan.give_back()

    first = await disk.borrow(60)
    async with anyio.create_task_group() as group:
        for name, count in (("large", 90), ("small", 20)):
            group.start_soon(borrow, name, count)
            await anyio.wait_all_tasks_blocked()
        assert served == []
        first.give_back()
    assert served == ["large", "small"]


async def test_who_gives_up_waiting_holds_nobody_up() -> None:
    disk = Disk(100)
    first = await disk.borrow(60)
    async with anyio.create_task_group() as group:
        group.start_soon(disk.borrow, 90)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    await disk.borrow(40)
    first.give_back()
    await disk.borrow(60)


async def test_a_file_longer_than_it_said_gets_more_while_there_is_some() -> None:
    disk = Disk(2 * STEP)
    loan = await disk.borrow(10)
    await to_thread.run_sync(loan.spend, 11)
    await to_thread.run_sync(loan.spend, STEP - 1)
    with pytest.raises(Internal, match="longer than it says") as raised:
        await to_thread.run_sync(loan.spend, STEP)
    assert raised.value.retryable
    loan.give_back()
    await disk.borrow(2 * STEP)


@given(
    jobs=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 5), st.floats(0, 5)), max_size=20),
    patience=st.floats(0.1, 10),
)
def test_however_jobs_come_and_go_no_more_is_lent_than_there_is_and_all_comes_back(
    jobs: list[tuple[int, float, float]], patience: float
) -> None:
    disk, held, most = Disk(100), 0, 0

    async def job(count: int, after: float, seconds: float) -> None:
        nonlocal held, most
        await anyio.sleep(after)
        with anyio.move_on_after(patience):
            loan = await disk.borrow(count)
            held += count
            most = max(most, held)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds)
            held -= count
            loan.give_back()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for asked in jobs:
                group.start_soon(job, *asked)
        with anyio.fail_after(1):
            await disk.borrow(100)
        await checkpoint()

    at_mock_time(main)
    assert most <= 100
