"""Bleed: another's voice is left out to the last sample, and nothing of one's own goes with it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.transcript import Crosstalk
from stages.bleed import LEAST, LISTED, PAD, own_speech, sharing, suppressed, whose
from stages.messages import Bleed
from stages.spool import SAMPLE_RATE, Region

Mask = NDArray[np.bool_]
SECOND = SAMPLE_RATE


def bleed(start: float, end: float, source: str = "1:0", score: float = 0.9) -> Bleed:
    return Bleed(Region(round(start * SECOND), round(end * SECOND)), source, score)


def drawn_regions(longest: int) -> st.SearchStrategy[list[Region]]:
    """In order, never overlapping, some of them touching."""
    gaps_and_lengths = st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, longest)), max_size=12)
    return gaps_and_lengths.map(placed)


def placed(gaps_and_lengths: list[tuple[int, int]]) -> list[Region]:
    regions, reached = [], 0
    for gap, length in gaps_and_lengths:
        regions.append(Region(reached + gap, reached + gap + length))
        reached += gap + length
    return regions


def covered(regions: list[Region], length: int) -> Mask:
    mask = np.zeros(length, bool)
    for region in regions:
        mask[region.start : region.end] = True
    return mask


def runs(mask: Mask) -> list[Region]:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0)).tolist()
    return [Region(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


@given(drawn_regions(10 * SECOND), drawn_regions(4 * SECOND))
def test_what_is_kept_is_speech_in_order_and_all_of_ones_own_that_is_long_enough_to_be_speech(
    speech: list[Region], others: list[Region]
) -> None:
    kept = [*own_speech(speech, [Bleed(other, "1:0", 1.0) for other in others])]
    assert all(region.start < region.end for region in kept)
    assert all(earlier.end <= later.start for earlier, later in pairwise(kept))
    length = max((region.end for region in [*speech, *others]), default=0)
    spoken, heard = covered(speech, length), covered(kept, length)
    assert not (heard & ~spoken).any()
    lost = spoken & ~covered(others, length) & ~heard
    assert all(run.end - run.start < 2 * (LEAST + PAD) for run in runs(lost))


@given(drawn_regions(10 * SECOND))
def test_speech_without_bleed_is_kept_as_it_is(speech: list[Region]) -> None:
    assert [*own_speech(speech, ())] == speech


def test_a_cut_leaves_the_pause_that_is_around_other_speech() -> None:
    [before, after] = own_speech([Region(0, 10 * SECOND)], [bleed(3, 7)])
    assert before == Region(0, 3 * SECOND + PAD)
    assert after == Region(7 * SECOND - PAD, 10 * SECOND)


def test_a_word_between_two_stretches_of_bleed_is_kept_and_a_click_is_not() -> None:
    others = [bleed(1.0, 3.0), bleed(3.1, 5.0), bleed(5.4, 8.0)]
    kept = [*own_speech([Region(0, 9 * SECOND)], others)]
    assert [(region.start / SECOND, region.end / SECOND) for region in kept] == [(0, 1.32), (4.68, 5.72), (7.68, 9)]


def test_speech_that_is_all_bleed_goes_with_the_pads_around_it() -> None:
    assert [*own_speech([Region(0, 4 * SECOND)], [bleed(0.3, 3.7)])] == []
    assert [*own_speech([Region(SECOND, 4 * SECOND)], [bleed(0, 5)])] == []


@given(drawn_regions(2 * SECOND), st.integers(0, 20 * SECOND), st.integers(1, 5 * SECOND))
def test_bleed_that_shares_time_with_a_stretch_is_found(others: list[Region], start: int, length: int) -> None:
    found = [other.region for other in sharing([Bleed(r, "1:0", 1.0) for r in others], Region(start, start + length))]
    assert found == [other for other in others if other.start < start + length and other.end > start]


@pytest.mark.parametrize(
    ("stretches", "voice"),
    [
        pytest.param([(0.0, 2.0)], None, id="none of it"),
        pytest.param([(3.0, 5.0)], None, id="half of it"),
        pytest.param([(3.1, 5.0)], Crosstalk(source="1:0", score=0.8), id="more than half of it"),
        pytest.param([(4.0, 8.0)], Crosstalk(source="1:0", score=0.75), id="the longer of two voices, twice heard"),
        pytest.param([(3.3, 4.1), (7.0, 9.0)], Crosstalk(source="2:0", score=0.6), id="stretches far apart"),
    ],
)
def test_a_voice_is_anothers_where_more_than_half_of_the_time_is_bleed(
    stretches: list[tuple[float, float]], voice: Crosstalk | None
) -> None:
    others = [bleed(4.0, 6.0, score=0.8), bleed(6.0, 6.5, "2:0", 0.2), bleed(6.5, 7.0, score=0.55)]
    others.append(bleed(7.0, 9.0, "2:0", 0.6))
    assert whose([bleed(*stretch).region for stretch in stretches], others) == voice


def test_a_warning_says_how_much_was_left_out_where_and_whose_voice_it_was() -> None:
    notice = suppressed("0:0", [bleed(1.25, 3.0, "2:0"), bleed(10.0, 12.5), bleed(70.0, 71.0, "2:0")])
    assert (notice.code, notice.track) == ("crosstalk-suppressed", "0:0")
    assert notice.detail == (
        "Left out 3 stretches with the voice of 1:0 (2.5 s), 2:0 (2.8 s): 1.25-3.00 s, 10.00-12.50 s, 70.00-71.00 s."
    )


def test_a_warning_of_thousands_of_stretches_stays_short() -> None:
    notice = suppressed("0:0", [bleed(3.0 * n, 3.0 * n + 1) for n in range(10_000)])
    assert notice.detail.startswith("Left out 10000 stretches with the voice of 1:0 (10000.0 s): 0.00-1.00 s, ")
    assert notice.detail.endswith(f", {10_000 - LISTED} more.")
    assert len(notice.detail) < 500
