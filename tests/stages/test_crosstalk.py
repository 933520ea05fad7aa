"""Cross-talk: voices that bleed from microphone to microphone are found, and nobody loses a word of his own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import from_thread, to_thread
from numpy.typing import NDArray

from bench.crosstalk import judge, listened, measure
from bench.rooms import Room, Sound, meeting, voices
from stages.crosstalk import Heard, find
from stages.messages import Bleed
from stages.spool import SAMPLE_RATE, Region, Samples, Spool
from tests.stages import meetings
from tests.stages.meetings import Said

ROOM = Room(bleed=-10, seconds=120)
TABLE = meetings.ANNA, meetings.BELLA
Bleeds = Mapping[str, tuple[Bleed, ...]]


@pytest.fixture(scope="module")
def spoken(media: Path) -> list[Sound]:
    return voices(media)


def listen(folder: Path, tracks: Sequence[Samples]) -> tuple[list[Heard], Bleeds]:
    """The tracks as they are given to ``find``, and what it finds."""

    async def run() -> tuple[list[Heard], Bleeds]:
        heard = [await listened(folder / f"{number}:0", samples) for number, samples in enumerate(tracks)]
        return heard, await to_thread.run_sync(find, heard)

    return anyio.run(run)


def at_a_table(folder: Path, bleed: float, *voices: NDArray[np.float32]) -> tuple[list[Heard], Bleeds]:
    """The same of voices that are heard in each other's microphones, ``bleed`` dB louder."""
    sounds = meetings.room(voices, bleed=bleed, delay=0.006)
    return listen(folder, [(sound[0] * 32767).astype(np.int16) for sound in sounds])


def spoken_in(line: Said) -> Region:
    start = round(line.start * SAMPLE_RATE)
    return Region(start, start + meetings.clip(line.clip).shape[1])


def shared(regions: Sequence[Region], other: Region) -> list[Region]:
    """What these have in common with another."""
    parts = (Region(max(region.start, other.start), min(region.end, other.end)) for region in regions)
    return [part for part in parts if part.start < part.end]


def track(*parts: Sound | float) -> Samples:
    """Sounds one after the other; a number is seconds of a room's noise."""
    random = np.random.default_rng(1)
    sounds = [
        part if isinstance(part, np.ndarray) else 1e-4 * random.standard_normal(round(part * SAMPLE_RATE))
        for part in parts
    ]
    return (np.concatenate(sounds) * 32767).astype(np.int16)


@pytest.mark.parametrize(
    "room",
    [
        pytest.param(replace(ROOM, bleed=-6), id="-6 dB"),
        pytest.param(replace(ROOM, bleed=-30), id="-30 dB"),
        pytest.param(replace(ROOM, reverberation=0, delay=(0, 0)), id="without delay or reverberation"),
        pytest.param(replace(ROOM, delay=(60, 120)), id="60 to 120 ms later"),
        pytest.param(replace(ROOM, noise=-20), id="in noise"),
        pytest.param(replace(ROOM, quieter=12), id="one speaker 12 dB quieter"),
        pytest.param(replace(ROOM, gains=12), id="recorders set 24 dB apart"),
        pytest.param(replace(ROOM, tracks=4, drift=200), id="four tracks, clocks 200 ppm apart"),
        pytest.param(replace(ROOM, silent=(2,)), id="one who says nothing"),
    ],
)
def test_doubled_words_are_found_with_their_source_and_own_words_stay(room: Room, spoken: list[Sound]) -> None:
    told = measure(room, spoken, seed=11)
    assert told.doubled > 100
    assert told.found >= 0.95 * told.doubled
    assert told.named >= 0.95 * told.found
    assert told.lost <= 0.01 * told.own


@pytest.mark.parametrize(("bleed", "lost"), [(-10, 0.01), (-3, 0.06)])
def test_who_speaks_at_the_same_time_as_others_keeps_his_words(bleed: float, lost: float, spoken: list[Sound]) -> None:
    told = measure(replace(ROOM, bleed=bleed, overlap=0.5), spoken, seed=11)
    assert told.found >= 0.95 * told.doubled
    assert told.lost <= lost * told.own


def test_recorders_whose_clocks_drift_apart_are_followed(spoken: list[Sound]) -> None:
    """By 0.16 s in the end, which with the delay is more than is looked at from where they began."""
    told = measure(Room(bleed=-10, tracks=2, seconds=420, delay=(110, 120), drift=380), spoken, seed=11)
    assert told.found >= 0.95 * told.doubled
    assert told.lost <= 0.01 * told.own


@pytest.mark.parametrize("bleed", [-12, -26])
def test_a_sentence_that_bleeds_is_one_stretch_as_far_as_it_is_heard(tmp_path: Path, bleed: float) -> None:
    heard, bleeds = at_a_table(tmp_path, bleed, *(meetings.voice(*lines, seconds=24) for lines in TABLE))
    for one, lines in zip(heard, reversed(TABLE), strict=True):
        found = [bleed.region for bleed in bleeds[one.track]]
        sentences = [part for line in lines for part in shared(one.speech, spoken_in(line))]
        assert sentences
        for whole in sentences:
            [stretch] = shared(found, whole)
            assert stretch.start == whole.start
            assert stretch.end >= whole.end - SAMPLE_RATE // 10
        assert len(found) == len(sentences)


@pytest.mark.parametrize("bleed", [-12, -26])
def test_a_word_of_ones_own_within_a_sentence_of_anothers_stays(tmp_path: Path, bleed: float) -> None:
    anna, bella = (meetings.voice(*lines, seconds=24) for lines in TABLE)
    word = Region(3 * SAMPLE_RATE, 3 * SAMPLE_RATE + 4800)
    bella[:, word.start : word.end] += meetings.clip("leopard_en")[:, 40_800:45_600]  # the better part of "classes"
    [_, beside], bleeds = at_a_table(tmp_path, bleed, anna, bella)
    before, after, *_ = [bleed.region for bleed in bleeds[beside.track]]
    assert before.end <= word.start
    assert word.end - SAMPLE_RATE // 20 <= after.start < word.end + SAMPLE_RATE // 5


@pytest.mark.parametrize("tracks", [2, 3])
def test_tracks_that_are_all_their_own_have_no_bleed(tmp_path: Path, tracks: int, spoken: list[Sound]) -> None:
    room = replace(ROOM, bleed=None, overlap=0.9, tracks=tracks)
    _, bleeds = listen(tmp_path, meeting(room, spoken, seed=11).tracks)
    assert bleeds == {f"{number}:0": () for number in range(tracks)}


def test_who_repeats_two_seconds_later_what_another_said_keeps_it(tmp_path: Path, spoken: list[Sound]) -> None:
    said = np.concatenate(spoken)
    _, bleeds = listen(tmp_path, [track(1.0, said, 3.0), track(3.0, 0.7 * said, 1.0)])
    assert bleeds == {"0:0": (), "1:0": ()}


def test_of_one_voice_on_two_tracks_the_quieter_and_later_is_the_copy(tmp_path: Path, spoken: list[Sound]) -> None:
    said = np.concatenate(spoken)
    heard, bleeds = listen(tmp_path, [track(1.01, 0.2 * said, 1.0), track(1.0, said, 1.01)])
    assert bleeds["1:0"] == ()
    assert {bleed.source for bleed in bleeds["0:0"]} == {"1:0"}
    found = sum(bleed.region.end - bleed.region.start for bleed in bleeds["0:0"])
    assert found >= 0.95 * sum(region.end - region.start for region in heard[0].speech)


def test_bleeds_are_in_order_lie_in_speech_and_are_the_same_every_time(tmp_path: Path, spoken: list[Sound]) -> None:
    held = meeting(ROOM, spoken, seed=5)
    heard, bleeds = listen(tmp_path, held.tracks)
    assert list(bleeds) == [one.track for one in heard]
    for one in heard:
        found = bleeds[one.track]
        assert found
        assert all(before.region.end <= after.region.start for before, after in pairwise(found))
        assert all(0.8 <= bleed.score <= 1 and bleed.source in bleeds and bleed.source != one.track for bleed in found)
        for bleed in found:
            assert any(r.start <= bleed.region.start < bleed.region.end <= r.end for r in one.speech)
    again, the_same = listen(tmp_path, held.tracks)
    assert the_same == bleeds
    assert judge(held, again, the_same) == judge(held, heard, bleeds)


@pytest.mark.parametrize("tracks", [[], [track(2.0)], [track(2.0), track(0.0)], [track(0.0), track(0.0)]])
def test_where_nobody_speaks_nothing_bleeds(tmp_path: Path, tracks: list[Samples]) -> None:
    _, bleeds = listen(tmp_path, tracks)
    assert bleeds == {f"{number}:0": () for number in range(len(tracks))}


def test_a_track_may_be_much_shorter_than_another(tmp_path: Path, spoken: list[Sound]) -> None:
    long, short = meeting(replace(ROOM, tracks=2), spoken, seed=5).tracks
    heard, bleeds = listen(tmp_path, [long, short[: len(short) // 3]])
    assert all(bleed.region.end <= len(short) / 3 for found in bleeds.values() for bleed in found)
    assert all(bleeds[one.track] for one in heard)


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path, spoken: list[Sound]) -> None:
    tracks = meeting(replace(ROOM, seconds=90), spoken, seed=5).tracks

    def peak(times: int) -> int:
        async def run() -> int:
            heard = [await listened(tmp_path / str(n), np.tile(samples, times)) for n, samples in enumerate(tracks)]
            tracemalloc.start()
            try:
                assert all((await to_thread.run_sync(find, heard)).values())
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        return anyio.run(run)

    assert peak(4) <= 1.1 * peak(1)


class Cancelling(Spool):
    """Cancels the scope in which it is read."""

    def __init__(self, path: Path, scope: anyio.CancelScope) -> None:
        super().__init__(path)
        self.scope, self.reads = scope, 0

    def stretch(self, start: int, count: int) -> Samples:
        self.reads += 1
        from_thread.run_sync(self.scope.cancel)
        return super().stretch(start, count)


async def test_a_job_that_is_given_up_is_not_looked_at_to_the_end(tmp_path: Path, spoken: list[Sound]) -> None:
    held = meeting(replace(ROOM, tracks=2), spoken, seed=5)
    heard = [await listened(tmp_path / str(number), samples) for number, samples in enumerate(held.tracks)]
    with anyio.CancelScope() as scope:
        spool = Cancelling(tmp_path / "cancelling", scope)
        await to_thread.run_sync(write, spool, held.tracks[0])
        await to_thread.run_sync(find, [replace(heard[0], spool=spool), heard[1]])
    assert scope.cancelled_caught
    assert spool.reads == 1


def write(spool: Spool, samples: Samples) -> None:
    spool.append(samples)
    spool.finish()
