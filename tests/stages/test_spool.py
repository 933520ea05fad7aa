"""Spool: what one thread writes, tasks read, and nobody reads what may still change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import Internal, MediaCorrupt
from pipeline.transcript import Notice
from stages.spool import SAMPLE_RATE, Spool

ALL = 10**6


def steps(count: int, start: int = 0) -> NDArray[np.int16]:
    return np.arange(start, start + count, dtype=np.int16)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "track")


async def in_thread(*calls: Callable[[], None]) -> None:
    """Make these calls where the decoder makes its own."""
    await to_thread.run_sync(lambda: [call() for call in calls])


async def test_what_was_appended_is_read_in_order(spool: Spool) -> None:
    await in_thread(lambda: spool.append(steps(100)), lambda: spool.append(steps(100, 100)), spool.finish)
    np.testing.assert_array_equal(await spool.read(0, ALL), steps(200))
    np.testing.assert_array_equal(await spool.read(90, 20), steps(20, 90))
    assert len(await spool.read(200, 10)) == 0
    assert spool.seconds == 200 / SAMPLE_RATE


async def test_a_reader_waits_until_its_samples_are_there(spool: Spool) -> None:
    read: list[NDArray[np.int16]] = []

    async def listen() -> None:
        read.append(await spool.read(50, 100))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await in_thread(lambda: spool.append(steps(100)))
        assert read == []
        await in_thread(lambda: spool.append(steps(100, 100)))
    np.testing.assert_array_equal(read[0], steps(100, 50))


async def test_an_empty_track_ends_at_once(spool: Spool) -> None:
    await in_thread(spool.finish)
    assert len(await spool.read(0, 100)) == 0
    assert spool.error is None


async def test_each_reader_is_woken_by_what_it_waits_for_and_not_only_by_the_end(spool: Spool) -> None:
    read: list[int] = []

    async def reader(count: int) -> None:
        read.append(len(await spool.read(0, count)))

    async with anyio.create_task_group() as tasks:
        for count in range(200, 0, -1):
            tasks.start_soon(reader, count)
        await in_thread(*[lambda: spool.append(steps(1))] * 200)
    assert not spool.ended
    assert sorted(read) == list(range(1, 201))


async def test_what_is_not_published_is_not_read(spool: Spool) -> None:
    await in_thread(lambda: spool.mix(0, steps(100)), lambda: spool.publish(60))
    np.testing.assert_array_equal(await spool.read(0, 60), steps(60))
    assert spool.seconds == 60 / SAMPLE_RATE
    with anyio.move_on_after(0) as waiting:
        await spool.read(0, 61)
    assert waiting.cancelled_caught


async def test_what_is_published_cannot_change(spool: Spool) -> None:
    await in_thread(lambda: spool.append(steps(100)))
    with pytest.raises(ValueError, match="99"):
        await in_thread(lambda: spool.mix(99, steps(10)))


async def test_sums_are_clipped_at_full_scale(spool: Spool) -> None:
    loud = np.array([30_000, -30_000], np.int16)
    await in_thread(lambda: spool.mix(0, loud), lambda: spool.mix(0, loud), spool.finish)
    assert (await spool.read(0, ALL)).tolist() == [32_767, -32_768]


async def test_how_a_track_ended_is_told_to_its_reader(spool: Spool) -> None:
    error, notice = MediaCorrupt("broken"), Notice(code="media-damaged", detail="a piece is missing")
    await in_thread(lambda: spool.append(steps(10)), lambda: spool.finish(error, (notice,)))
    assert (spool.ended, spool.error, spool.warnings) == (True, error, (notice,))


async def test_a_reader_is_told_when_the_writer_was_stopped(spool: Spool) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spool.read, 0, 100)
        await in_thread(lambda: spool.append(steps(10)))
        spool.close()
    assert isinstance(spool.error, Internal)
    assert spool.error.retryable


async def test_closing_a_finished_track_changes_nothing(spool: Spool) -> None:
    await in_thread(lambda: spool.append(steps(10)), spool.finish)
    spool.close()
    assert spool.error is None
    assert len(await spool.read(0, ALL)) == 10


parts = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 2000), st.integers(-500, 500)), max_size=12)


@given(parts)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_mix_is_the_sum_of_its_parts_in_any_order(tmp_path: Path, drawn: list[tuple[int, int, int]]) -> None:
    spool = Spool(tmp_path / "mixed")
    expected = np.zeros(max((start + count for start, count, _ in drawn), default=0), np.int16)

    def write() -> None:
        for start, count, level in drawn:
            spool.mix(start, np.full(count, level, np.int16))
            expected[start : start + count] += level
        spool.finish()

    await to_thread.run_sync(write)
    np.testing.assert_array_equal(await spool.read(0, ALL), expected)
