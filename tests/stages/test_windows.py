"""Windows: all speech, in order, once, at most 30 s at a time; nothing else."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import MediaTooLarge
from pipeline.settings import AudioSettings
from stages.speech import LONGEST_SAMPLES, MIN_SPEECH_FRAMES, Hysteresis, regions
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.voice import FRAME
from stages.windows import SpeechWindow, joined, laid_out, windows
from tests.stages.making import resampled, sound_of, tone

Samples = NDArray[np.int16]
THRESHOLD = 0.5
# Stretches well inside the sentences of each clip, as Whisper's word times tell (seconds).
SPOKEN = {
    "jfk.flac": [(0.4, 2.2), (3.3, 4.4), (5.4, 7.6), (8.2, 10.5)],
    "leopard_en.flac": [(0.6, 5.4)],
    "leopard_de.flac": [(0.8, 4.6)],
    "sonnet_clip.mp3": [(0.3, 0.8), (2.8, 8.6)],
}


async def found(spool: Spool, settings: AudioSettings | None = None) -> list[SpeechWindow]:
    return [window async for window in windows(spool, regions(spool, settings or AudioSettings()))]


async def spooled(path: Path, samples: Samples) -> Spool:
    spool = Spool(path)
    await to_thread.run_sync(write, spool, [samples])
    return spool


async def found_in(path: Path, samples: Samples) -> list[SpeechWindow]:
    return await found(await spooled(path, samples))


def write(spool: Spool, parts: Sequence[Samples]) -> None:
    for part in parts:
        spool.append(part)
    spool.finish()


def speech(media: Path, *names: str, pause: float = 0.0) -> Samples:
    """Recordings one after the other, as a track: int16 at 16 kHz."""
    gap = np.zeros(round(pause * SAMPLE_RATE), np.int16)
    return np.concatenate([part for name in names for part in (resampled(sound_of(media / name)), gap)])


def noise(level: float, seconds: float = 20) -> Samples:
    """White noise of ``level`` dBFS."""
    drawn = np.random.default_rng(7).standard_normal(round(seconds * SAMPLE_RATE))
    return (drawn * 32768 * 10 ** (level / 20)).astype(np.int16)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(0, np.int16), id="nothing at all"),
        pytest.param(np.zeros(20 * SAMPLE_RATE, np.int16), id="digital silence"),
        pytest.param(noise(-60), id="noise at -60 dBFS"),
        pytest.param(noise(-50), id="noise at -50 dBFS"),
        pytest.param(noise(-20), id="noise at -20 dBFS"),
        pytest.param(resampled((tone(440, seconds=20), 48_000)), id="a tone"),
    ],
)
async def test_where_nobody_speaks_there_is_no_window(tmp_path: Path, samples: Samples) -> None:
    assert await found_in(tmp_path / "track", samples) == []


@pytest.mark.parametrize("name", SPOKEN)
async def test_all_speech_of_a_recording_is_in_its_windows(tmp_path: Path, media: Path, name: str) -> None:
    pieces = [piece for window in await found_in(tmp_path / "t", speech(media, name)) for piece in window.pieces]
    for start, end in SPOKEN[name]:
        assert any(p.track_start <= start and end <= p.track_start + p.seconds for p in pieces), (start, end)


async def test_the_samples_of_a_window_are_those_of_its_pieces(tmp_path: Path, media: Path) -> None:
    track = speech(media, "leopard_en.flac", "leopard_de.flac", pause=3.0)
    spool = await spooled(tmp_path / "track", track)
    [window] = await found(spool)
    samples = await window.samples(spool)
    assert len(window.pieces) == 2
    for piece in window.pieces:
        at, there = round(piece.window_start * SAMPLE_RATE), round(piece.track_start * SAMPLE_RATE)
        count = round(piece.seconds * SAMPLE_RATE)
        np.testing.assert_array_equal(samples[at : at + count] * 32768, track[there : there + count])
    assert samples.dtype == np.float32


async def test_speech_without_a_pause_is_cut_and_nothing_of_it_is_lost(tmp_path: Path, media: Path) -> None:
    one = speech(media, "jfk.flac")[: 2 * SAMPLE_RATE]
    spoken = await found_in(tmp_path / "track", np.tile(one[SAMPLE_RATE // 2 :], 50))
    assert len(spoken) > 2
    assert all(window.seconds <= LONGEST_SAMPLES / SAMPLE_RATE for window in spoken)
    pieces = [piece for window in spoken for piece in window.pieces]
    assert pieces[0].track_start < 0.2
    assert pieces[-1].track_start + pieces[-1].seconds > 74.5
    for earlier, later in pairwise(pieces):
        assert later.track_start == pytest.approx(earlier.track_start + earlier.seconds)


@pytest.mark.parametrize("seed", range(3))
async def test_windows_do_not_depend_on_how_the_spool_grew(tmp_path: Path, media: Path, seed: int) -> None:
    track = speech(media, "sonnet_p001.mp3", "leopard_fr.flac", "jfk.flac", pause=4.0)
    cuts = sorted(random.Random(seed).sample(range(len(track)), 30))
    growing = Spool(tmp_path / "growing")
    grown: list[SpeechWindow] = []

    async def listen() -> None:
        grown.extend(await found(growing))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await to_thread.run_sync(write, growing, np.split(track, cuts))
    assert grown == await found_in(tmp_path / "whole", track)


async def test_a_track_that_breaks_off_gives_no_window_of_what_may_be_half_of_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "track")
    await to_thread.run_sync(spool.finish, MediaTooLarge("too long"))
    assert await found(spool) == []


async def test_a_lower_threshold_hears_no_less(tmp_path: Path, media: Path) -> None:
    spool = await spooled(tmp_path / "track", speech(media, "sonnet_clip.mp3"))
    strict = sum(window.seconds for window in await found(spool, AudioSettings(vad_threshold=0.9)))
    lax = sum(window.seconds for window in await found(spool, AudioSettings(vad_threshold=0.2)))
    assert 0 < strict <= lax


# Scores as a detector gives them: stretches of speech, of doubt and of silence.
stretches = st.lists(st.tuples(st.sampled_from([0.02, 0.4, 0.6, 0.97]), st.integers(1, 700)), max_size=20)


def scores_of(drawn: list[tuple[float, int]]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0), *(np.full(count, score) for score, count in drawn)]).astype(np.float32)


def regions_of(scores: NDArray[np.float32], *, block: int) -> list[Region]:
    hysteresis = Hysteresis(THRESHOLD)
    regions: list[Region] = []
    for start in range(0, len(scores), block):
        part = scores[start : start + block]
        regions += hysteresis.hear(part, np.ones_like(part))
    return [*regions, *hysteresis.end(len(scores) * FRAME)]


def runs_of_speech(scores: NDArray[np.float32]) -> list[Region]:
    edges = np.flatnonzero(np.diff((scores >= THRESHOLD).astype(int), prepend=0, append=0)).tolist()
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [Region(a * FRAME, b * FRAME) for a, b in runs if b - a >= MIN_SPEECH_FRAMES]


@given(stretches)
def test_regions_come_in_order_and_hold_all_speech(drawn: list[tuple[float, int]]) -> None:
    scores = scores_of(drawn)
    regions = regions_of(scores, block=1000)
    assert all(0 <= r.start < r.end <= len(scores) * FRAME and r.end - r.start <= LONGEST_SAMPLES for r in regions)
    assert all(earlier.end <= later.start for earlier, later in pairwise(regions))
    covered = np.zeros(len(scores) * FRAME, bool)
    for region in regions:
        covered[region.start : region.end] = True
    assert all(covered[run.start : run.end].all() for run in runs_of_speech(scores))


@given(stretches, st.integers(1, 2000))
def test_regions_do_not_depend_on_the_blocks_they_were_heard_in(drawn: list[tuple[float, int]], block: int) -> None:
    scores = scores_of(drawn)
    assert regions_of(scores, block=block) == regions_of(scores, block=1000)


regions_in_order = st.lists(
    st.tuples(st.integers(0, 3 * SAMPLE_RATE), st.integers(1, LONGEST_SAMPLES)), min_size=1, max_size=12
).map(lambda drawn: [*_placed(drawn)])


def _placed(drawn: list[tuple[int, int]]) -> list[Region]:
    regions: list[Region] = []
    for gap, length in drawn:
        start = (regions[-1].end if regions else 0) + gap
        regions.append(Region(start, start + length))
    return regions


def packed(regions: list[Region]) -> list[tuple[Region, ...]]:
    full: list[tuple[Region, ...]] = [()]
    for region in regions:
        longer = joined(full[-1], region)
        full[-1:] = [longer] if longer else [full[-1], (region,)]
    return full


@given(regions_in_order)
def test_packing_keeps_every_region_whole_and_once_in_windows_of_30_seconds(regions: list[Region]) -> None:
    full = packed(regions)
    pieces = [piece for window in full for piece in window]
    assert all(0 < sum(piece.end - piece.start for piece in window) <= LONGEST_SAMPLES for window in full)
    assert all(earlier.end <= later.start for earlier, later in pairwise(pieces))
    for region in regions:
        assert sum(piece.start <= region.start and region.end <= piece.end for piece in pieces) == 1


@given(regions_in_order, st.lists(st.floats(-1, 31), min_size=2, max_size=20).map(sorted))
def test_times_of_a_window_lie_on_the_track_in_order_and_inside_its_pieces(
    regions: list[Region], times: list[float]
) -> None:
    for window in packed(regions):
        told = SpeechWindow(window, pieces := laid_out(window))
        mapped = [told.span(time, time)[0] for time in times]
        assert mapped == sorted(mapped)
        for time in mapped:
            assert any(p.track_start <= time <= p.track_start + p.seconds for p in pieces)
        assert [told.piece_at(piece.window_start) for piece in pieces] == list(pieces)
        assert told.passed == pytest.approx(window[-1].end / SAMPLE_RATE)


@given(regions_in_order, st.floats(0, 30), st.floats(0, 2))
def test_a_word_is_never_stretched_over_what_was_left_out(regions: list[Region], start: float, length: float) -> None:
    for window in packed(regions):
        told = SpeechWindow(window, laid_out(window))
        begins, ends = told.span(start, start + length)
        assert 0 <= ends - begins <= length + 1e-6


def test_listening_for_speech_leaves_no_trace_outside(tmp_path: Path) -> None:
    """onnxruntime's own telemetry keeps a device id in the user's cache."""
    heard = "import numpy as np; from stages.voice import Silero; Silero().hear(np.ones(16_000, np.int16) * 9_999)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", heard], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
