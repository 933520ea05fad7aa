"""Clock: where frames belong whose time stamps are rounded, missing, far away or set anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.clock import JITTER_SECONDS, Clock, Hand


def test_a_clock_set_anew_is_a_mapping_and_not_hours_of_silence() -> None:
    hand = Hand(Clock())
    assert [hand.place(time, 1.0) for time in (0.0, 1.0, 80_000.0, 80_001.0, 80_004.0)] == [0.0, 1.0, 2.0, 3.0, 6.0]
    assert hand.place(5.0, 1.0) == 7.0


def test_hours_that_lie_within_the_stated_length_are_a_hole() -> None:
    hand = Hand(Clock(stated=10_000.0))
    assert [hand.place(time, 1.0) for time in (0.0, 9_999.0)] == [0.0, 9_999.0]
    assert hand.place(80_000.0, 1.0) == 10_000.0


def test_frames_without_a_time_follow_the_one_before() -> None:
    hand = Hand(Clock())
    assert [hand.place(time, 0.5) for time in (None, None, 4.0, None)] == [0.0, 0.5, 4.0, 4.5]


def test_only_the_first_frame_may_be_off_by_less_than_the_jitter() -> None:
    hand = Hand(Clock())
    assert hand.place(0.004, 1.0) == 0.004
    assert hand.place(1.015, 1.0) == 1.004
    assert hand.place(2.030, 1.0) == 2.030


def test_a_stream_may_be_silent_for_hours_in_which_another_is_heard() -> None:
    clock = Clock()
    heard, silent = Hand(clock), Hand(clock)
    silent.place(0.0, 1.0)
    for hour in range(4):
        heard.place(hour * 3600.0, 3600.0)
    assert silent.place(3.5 * 3600, 1.0) == 3.5 * 3600


def test_a_late_stream_begins_on_the_clock_that_counts_then() -> None:
    clock = Clock()
    first, late = Hand(clock), Hand(clock)
    assert [first.place(time, 10.0) for time in (0.0, 90_000.0)] == [0.0, 10.0]
    assert late.place(90_004.0, 1.0) == 14.0


FRAMES = 300  # of 0.1 s between two settings of the clock


@given(
    bases=st.lists(st.integers(0, 9).map(lambda n: 20_000.0 * n), min_size=1, max_size=5),
    lag=st.integers(0, 9),
    quiet=st.integers(0, FRAMES // 2),
)
def test_streams_of_one_file_stay_together_however_its_clock_is_set(bases: list[float], lag: int, quiet: int) -> None:
    """The packets of one come ``lag`` frames after those of the other, and it falls silent before each new setting."""
    clock = Clock()
    first, second = Hand(clock), Hand(clock)
    stamps = [base + n * 0.1 for base in bases for n in range(FRAMES)]
    expected, found = [], []
    for n in range(len(stamps) + lag):
        if n < len(stamps):
            expected.append(first.place(stamps[n], 0.1))
        if n >= lag and (n - lag) % FRAMES < FRAMES - quiet:
            found.append((n - lag, second.place(stamps[n - lag], 0.1)))
    assert [place for _, place in found] == pytest.approx([expected[n] for n, _ in found], abs=JITTER_SECONDS)
