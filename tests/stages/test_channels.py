"""What two channels are to each other, on real voices: a call, one recording, or one sound twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from anyio import to_thread
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.settings import AudioSettings
from stages.channels import Pair, compare, duplicates
from stages.likeness import Heard
from stages.speech import regions
from stages.spool import SAMPLE_RATE, Spool
from tests.stages.making import Part, Stream, record, resampled, sound_of

Samples = NDArray[np.float64]
Listen = Callable[[Samples], Spool]


@pytest.fixture
def listen(tmp_path: Path) -> Listen:
    """These samples as a track that has ended; from a worker thread."""
    numbers = count()

    def make(samples: Samples) -> Spool:
        spool = Spool(tmp_path / f"track-{next(numbers)}.pcm")
        spool.append(np.clip(np.round(samples), -32768, 32767).astype(np.int16))
        spool.finish()
        return spool

    return make


@pytest.fixture(scope="module")
def ann(media: Path) -> Samples:
    """20 s of a sonnet."""
    return voice(media / "sonnet_p001.mp3")[: 20 * SAMPLE_RATE]


@pytest.fixture(scope="module")
def bob(media: Path) -> Samples:
    """20 s of somebody else, over and over."""
    return np.resize(voice(media / "leopard_en.flac"), 20 * SAMPLE_RATE)


def voice(path: Path) -> Samples:
    return resampled(sound_of(path)).astype(np.float64)


def only(samples: Samples, start: float, end: float) -> Samples:
    """Silence but from ``start`` to ``end``, in seconds."""
    kept = np.zeros_like(samples)
    part = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
    kept[part] = samples[part]
    return kept


def pause(samples: Samples) -> float:
    """Where the quietest half second begins, in seconds."""
    loudness = np.convolve(np.abs(samples), np.ones(SAMPLE_RATE // 2), "valid")
    return int(np.argmin(loudness)) / SAMPLE_RATE


def music(seconds: float, *hertz: float) -> Samples:
    """A chord whose notes come and go."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    chord = np.zeros_like(time)
    for tone in hertz:
        chord += 1500 * np.sin(2 * np.pi * tone * time) * (np.sin(tone * time / 100) > 0)
    return chord


async def judged(listen: Listen, left: Samples, right: Samples) -> Pair:
    spools = await to_thread.run_sync(lambda: (listen(left), listen(right)))
    sides = [Heard("", spool, tuple([r async for r in regions(spool, AudioSettings())])) for spool in spools]
    return await to_thread.run_sync(compare, sides[0], sides[1])


async def repeated(listen: Listen, *tracks: Samples) -> tuple[int | None, ...]:
    return await to_thread.run_sync(lambda: duplicates([listen(track) for track in tracks]))


async def test_two_voices_that_take_turns_are_a_call(listen: Listen, ann: Samples, bob: Samples) -> None:
    assert await judged(listen, only(ann, 0, 10), only(bob, 10, 20)) is Pair.SIDES


@pytest.mark.parametrize("both", [6, 20])
async def test_a_call_may_have_both_talk_at_once(listen: Listen, ann: Samples, bob: Samples, both: float) -> None:
    start, end = 10 - both / 2, 10 + both / 2
    assert await judged(listen, only(ann, 0, end), only(bob, start, 20)) is Pair.SIDES


@pytest.mark.parametrize("level", [1.0, 0.25])
@pytest.mark.parametrize(("one", "other"), [("leopard_en", "austen_0870"), ("austen_0920", "austen_0890")])
async def test_two_who_talk_at_once_from_the_first_word_to_the_last_are_a_call(
    listen: Listen, media: Path, one: str, other: str, level: float
) -> None:
    left, right = (voice(media / f"{name}.flac")[: 5 * SAMPLE_RATE] for name in (one, other))
    assert await judged(listen, left, level * right) is Pair.SIDES


@pytest.mark.parametrize("level", [1.0, 0.2])
async def test_a_call_in_which_one_side_hardly_speaks_is_a_call(
    listen: Listen, ann: Samples, bob: Samples, level: float
) -> None:
    remark = level * only(bob, pause(ann), pause(ann) + 1)
    assert await judged(listen, ann, remark) is Pair.SIDES
    assert await judged(listen, remark, ann) is Pair.SIDES


@pytest.mark.parametrize(("decibels", "pair"), [(-20, Pair.SIDES), (-12, Pair.SIDES), (-3, Pair.STEREO)])
async def test_sides_may_be_heard_on_each_other_as_long_as_each_is_louder_on_its_own(
    listen: Listen, ann: Samples, bob: Samples, decibels: float, pair: Pair
) -> None:
    one, other, leak = only(ann, 0, 12), only(bob, 8, 20), 10 ** (decibels / 20)
    assert await judged(listen, one + leak * other, other + leak * one) is pair


async def test_voices_halfway_to_a_side_are_one_recording(listen: Listen, ann: Samples, bob: Samples) -> None:
    one, other = only(ann, 0, 12), only(bob, 8, 20)
    assert await judged(listen, 0.75 * one + 0.25 * other, 0.25 * one + 0.75 * other) is Pair.STEREO


async def test_voices_in_a_room_with_two_microphones_are_one_recording(
    listen: Listen, ann: Samples, bob: Samples
) -> None:
    random, decay = np.random.default_rng(7), np.exp(-np.arange(3200) / 800)
    echoes = [random.normal(0, 0.1, 3200) * decay for _ in range(2)]
    spoken = only(ann, 0, 12) + only(bob, 8, 20)
    left, right = (np.convolve(spoken, echo)[: len(spoken)] for echo in echoes)
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.5
    assert await judged(listen, left, right) is Pair.STEREO


@pytest.mark.parametrize("hiss", [0, 30, 300])
async def test_one_voice_on_one_side_is_no_call(listen: Listen, ann: Samples, hiss: float) -> None:
    other = np.random.default_rng(1).normal(0, hiss, len(ann))
    assert await judged(listen, ann, other) is Pair.STEREO
    assert await judged(listen, other, ann) is Pair.STEREO


async def test_a_voice_amid_music_that_is_panned_about_is_one_recording(listen: Listen, ann: Samples) -> None:
    left, right = music(20, 196, 247, 392), music(20, 220, 330, 523)
    assert await judged(listen, ann + left + 0.3 * right, ann + 0.3 * left + right) is Pair.STEREO
    assert await judged(listen, ann + left, ann + right) is Pair.STEREO


async def test_without_speech_there_are_no_sides(listen: Listen) -> None:
    assert await judged(listen, music(10, 196, 247), music(10, 330, 523)) is Pair.STEREO
    assert await judged(listen, np.zeros(SAMPLE_RATE), np.zeros(SAMPLE_RATE)) is Pair.STEREO
    assert await judged(listen, np.zeros(0), np.zeros(0)) is Pair.STEREO


@pytest.mark.parametrize("name", ["jfk.flac", "sonnet_clip.mp3", "sonnet_clip.mp4", "sonnet_clip.ogg"])
async def test_mono_that_was_saved_as_stereo_is_one_sound_twice(listen: Listen, media: Path, name: str) -> None:
    (left, right), rate = sound_of(media / name)
    sides = [resampled((side[None], rate)).astype(np.float64) for side in (left, right)]
    assert await judged(listen, *sides) is Pair.SAME


async def test_an_inverted_channel_is_the_same_sound(listen: Listen, ann: Samples) -> None:
    assert await judged(listen, ann, -ann) is Pair.SAME


async def test_one_voice_nearer_to_one_side_is_a_recording(listen: Listen, ann: Samples) -> None:
    assert await judged(listen, ann, 10 ** (-3 / 20) * ann) is Pair.STEREO


@pytest.fixture(scope="module")
def lossy(media: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Samples]:
    """A speech as three codecs keep it at 64 kb/s, by their names; some begin with the encoder's delay."""
    folder = tmp_path_factory.mktemp("lossy")
    sound, rate = sound_of(media / "jfk.flac")
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound[:1]), "fltp", "mono")
    frame.sample_rate = rate
    wide = np.concatenate([out.to_ndarray() for out in AudioResampler("fltp", "mono", 48_000).resample(frame)], axis=1)
    return {
        codec: voice(record(folder / f"{codec}.mka", Stream([Part(0.0, wide)], codec=codec, bit_rate=64_000)))
        for codec in ("aac", "libmp3lame", "libopus")
    }


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "libopus"])
async def test_what_a_codec_makes_of_a_sound_is_still_that_sound(
    listen: Listen, media: Path, lossy: dict[str, Samples], codec: str
) -> None:
    plain = voice(media / "jfk.flac")
    assert await judged(listen, plain, lossy[codec]) is Pair.SAME
    assert await repeated(listen, plain, *lossy.values()) == (None, 0, 0, 0)


async def test_two_codecs_versions_of_a_sound_are_the_same(listen: Listen, lossy: dict[str, Samples]) -> None:
    assert await repeated(listen, *lossy.values()) == (None, 0, 0)


async def test_each_copy_is_told_of_its_first(listen: Listen, ann: Samples, bob: Samples) -> None:
    assert await repeated(listen, ann, bob, ann, -bob, ann + bob, ann) == (None, None, 0, 1, None, 0)


async def test_a_copy_that_begins_some_milliseconds_later_is_a_copy(listen: Listen, ann: Samples) -> None:
    for late in (7, 480):
        shifted = np.concatenate([np.zeros(late), ann])
        assert await repeated(listen, ann, shifted) == (None, 0)
        assert await repeated(listen, shifted, ann) == (None, 0)


@pytest.mark.parametrize("decibels", [0, -10, -20])
async def test_one_short_word_more_makes_a_track_of_its_own(
    listen: Listen, ann: Samples, bob: Samples, decibels: float
) -> None:
    at = pause(ann) + 0.1
    mix = ann + 10 ** (decibels / 20) * only(bob, at, at + 0.3)
    assert await repeated(listen, ann, mix) == (None, None)
    assert await repeated(listen, mix, ann) == (None, None)
    assert await judged(listen, ann, mix) is Pair.STEREO


async def test_a_track_that_goes_on_when_the_other_has_ended_is_not_its_copy(listen: Listen, ann: Samples) -> None:
    assert await repeated(listen, ann, only(ann, 0, 15)[: 15 * SAMPLE_RATE]) == (None, None)
    assert await repeated(listen, ann, np.concatenate([ann, np.zeros(SAMPLE_RATE)])) == (None, 0)


async def test_silent_tracks_are_nobodys_copies(listen: Listen) -> None:
    silence, hum = np.zeros(SAMPLE_RATE), np.full(2 * SAMPLE_RATE, 5.0)
    assert await repeated(listen, silence, silence, hum, hum, np.zeros(0)) == (None,) * 5
    assert await repeated(listen) == ()


async def test_copies_are_found_where_they_begin_after_more_than_a_block_of_silence(
    listen: Listen, ann: Samples, bob: Samples
) -> None:
    silence = np.zeros(50 * SAMPLE_RATE)
    one, other = np.concatenate([silence, ann]), np.concatenate([silence, bob])
    assert await repeated(listen, one, other, one) == (None, None, 0)
