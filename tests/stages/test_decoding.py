"""Decoding: where on the media's clock a frame belongs, and how much of it waits to be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyio import to_thread
from av.audio.frame import AudioFrame

from stages.clock import Clock, Hand
from stages.disk import Disk, Loan
from stages.lines import LOWEST_RATE, Line, Mix, Source
from stages.spool import SAMPLE_RATE, Spool
from stages.tracks import Feed


def test_a_clock_set_anew_is_a_mapping_and_not_hours_of_silence() -> None:
    clock = Hand(Clock())
    assert [clock.place(time, 1.0) for time in (0.0, 1.0, 80_000.0, 80_001.0, 80_004.0)] == [0.0, 1.0, 2.0, 3.0, 6.0]
    assert clock.place(5.0, 1.0) == 7.0


def test_frames_without_a_time_follow_the_one_before() -> None:
    clock = Hand(Clock())
    assert [clock.place(time, 0.5) for time in (None, None, 4.0, None)] == [0.0, 0.5, 4.0, 4.5]


def test_only_the_first_frame_may_be_off_by_less_than_the_jitter() -> None:
    clock = Hand(Clock())
    assert clock.place(0.004, 1.0) == 0.004
    assert clock.place(1.015, 1.0) == 1.004
    assert clock.place(2.030, 1.0) == 2.030


@pytest.mark.parametrize("rate", [LOWEST_RATE, 8_000, 48_000])
async def test_at_most_half_a_minute_of_sound_is_held_back(tmp_path: Path, rate: int) -> None:
    source, mix = Source(Hand(Clock()), max_seconds=3600), Mix(Spool(tmp_path / "track"), Loan(Disk(0), 10**9))
    line = Line(Feed(0, 0), mix, source)
    source.lines.append(line)
    second = AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), "s16", "mono")
    second.sample_rate = rate
    for taken in range(1, 100):
        await to_thread.run_sync(source.take, second, None)
        assert line.position > (taken - 31) * SAMPLE_RATE
