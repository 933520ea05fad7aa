"""Demuxer: everything audible in the files, mixed, at its right time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from structlog.typing import EventDict

from pipeline.claim import Claim, Why
from pipeline.errors import Internal, JobError, MediaTooLarge, MediaUnsupported, TrackNotFound
from pipeline.settings import AudioSettings
from stages.demuxer import Demuxer
from stages.messages import Media
from stages.spool import SAMPLE_RATE
from tests.stages.hearing import asking, demuxed, heard, mixed, onsets, refusal
from tests.stages.making import Part, Stream, clicks, film, record, resampled, sound_of, tone


@pytest.mark.parametrize(
    ("name", "codec", "rates", "within"),
    [
        ("late.mkv", "pcm_s16le", (48_000, 16_000), 0.005),
        ("late.mkv", "aac", (48_000, 44_100), 0.005),
        ("late.mkv", "libopus", (48_000, 48_000), 0.005),
        ("late.webm", "libopus", (8_000, 16_000), 0.005),
        ("late.mp4", "libopus", (8_000, 16_000), 0.005),
        ("late.mkv", "flac", (8_000, 44_100), 0.005),
        ("late.mp4", "aac", (44_100, 16_000), 0.005),
        ("late.mp4", "libmp3lame", (48_000, 44_100), 0.005),
        ("late.ts", "aac", (48_000, 48_000), 0.025),  # MPEG-TS does not tell an encoder's delay
    ],
)
async def test_every_click_of_every_stream_is_heard_at_its_time(
    claim: Claim, tmp_path: Path, name: str, codec: str, rates: tuple[int, int], within: float
) -> None:
    first, late = rates
    path = record(
        tmp_path / name,
        Stream([Part(0.0, clicks(3.0, seconds=6, rate=first))], first, codec),
        Stream([Part(1.5, clicks(2.0, 4.0, seconds=4, rate=late, begins=1.5, channels=2))], late, codec),
    )
    samples, warnings = await mixed(claim, path)
    assert onsets(samples) == pytest.approx([2.0, 3.0, 4.0], abs=within)
    assert warnings == []


@given(
    starts=st.lists(st.floats(0, 3), min_size=1, max_size=3),
    rate=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000]),
    hole=st.floats(0.1, 2),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_holes_and_late_starts_become_silence(
    claim: Claim, tmp_path: Path, starts: list[float], rate: int, hole: float
) -> None:
    def parts(start: float) -> list[Part]:
        again = start + 0.5 + hole
        return [
            Part(start, clicks(start + 0.2, seconds=0.5, rate=rate, begins=start)),
            Part(again, clicks(again + 0.2, seconds=0.5, rate=rate, begins=again)),
        ]

    starts[0] = 0.0  # the media's clock begins with its first stream
    path = record(tmp_path / "holes.mkv", *(Stream(parts(start), rate) for start in starts))
    fresh = Claim(claim.job, scratch=claim.scratch)
    samples, warnings = await mixed(fresh, path)
    loud = np.abs(samples.astype(int)) > 2500
    for time in (begin + click for begin in starts for click in (0.2, 0.7 + hole)):
        at = round(time * SAMPLE_RATE)
        assert loud[at - 80 : at + 80].any(), time
    assert len(samples) / SAMPLE_RATE == pytest.approx(max(starts) + 1.0 + hole, abs=0.005)
    assert warnings == []


async def test_time_stamps_that_are_rounded_leave_no_gaps(claim: Claim, tmp_path: Path) -> None:
    # 1024 samples at 44 100 Hz are 23.2 ms; Matroska keeps whole milliseconds.
    path = record(tmp_path / "tone.mkv", Stream([Part(0.0, tone(200, seconds=5, rate=44_100))], 44_100, "aac"))
    samples, _ = await mixed(claim, path)
    steps = np.abs(np.diff(samples[1600:-1600].astype(int)))
    assert (
        steps.max() < 2 * 0.3 * 32768 * 2 * np.pi * 200 / SAMPLE_RATE
    )  # what the codec adds; a gap steps ten times so far


async def test_loud_streams_are_clipped_and_never_wrap(claim: Claim, tmp_path: Path) -> None:
    loud = tone(100, seconds=1, rate=16_000, level=0.9)
    path = record(tmp_path / "x.mkv", *(Stream([Part(0.0, loud)], 16_000) for _ in range(3)))
    samples, _ = await mixed(claim, path)
    expected = np.clip(3 * np.round(loud[0] * 32768), -32768, 32767)
    assert np.abs(samples - expected).max() <= 3


async def test_the_channels_of_a_stream_are_averaged(claim: Claim, tmp_path: Path) -> None:
    left = tone(300, seconds=1, rate=16_000, level=0.8)
    path = record(tmp_path / "x.wav", Stream([Part(0.0, np.concatenate([left, np.zeros_like(left)]))], 16_000))
    samples, _ = await mixed(claim, path)
    assert np.abs(samples - left[0] * 16384).max() <= 2


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
async def test_every_sample_format_has_the_same_full_scale(claim: Claim, tmp_path: Path, codec: str) -> None:
    path = record(tmp_path / "x.wav", Stream([Part(0.0, tone(300, seconds=1, rate=16_000, level=0.5))], 16_000, codec))
    samples, _ = await mixed(claim, path)
    assert samples.max() == pytest.approx(16384, rel=0.02)
    assert samples.min() == pytest.approx(-16384, rel=0.02)


async def test_the_rate_may_change_in_mid_stream(claim: Claim, tmp_path: Path) -> None:
    pieces = [
        record(tmp_path / f"{rate}.mp3", Stream([Part(0.0, clicks(1.0, seconds=2, rate=rate))], rate, "libmp3lame"))
        for rate in (44_100, 32_000)
    ]
    both = tmp_path / "both.mp3"
    both.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    samples, _ = await mixed(claim, both)
    first, second = onsets(samples)
    assert first == pytest.approx(1.0, abs=0.06)
    assert second - first == pytest.approx(2.0, abs=0.15)  # two encoders' delays lie between


async def test_several_files_are_mixed_from_their_beginnings(claim: Claim, tmp_path: Path) -> None:
    one = record(tmp_path / "one.wav", Stream([Part(0.0, clicks(1.0, seconds=2))]))
    other = record(tmp_path / "other.flac", Stream([Part(0.0, clicks(2.5, seconds=3, rate=16_000))], 16_000, "flac"))
    samples, _ = await mixed(claim, one, other)
    assert onsets(samples) == pytest.approx([1.0, 2.5], abs=0.005)


@pytest.mark.parametrize("name", ["sonnet_clip.mp3", "sonnet_clip.mp4", "sonnet_clip.ogg", "sonnet_clip.webm"])
async def test_containers_of_one_clip_sound_alike_without_their_extensions(
    claim: Claim, media: Path, tmp_path: Path, name: str
) -> None:
    bare = tmp_path / "media-0"
    shutil.copyfile(media / name, bare)
    samples, warnings = await mixed(claim, bare)
    expected = resampled(sound_of(media / "sonnet_clip.ogg"))
    assert len(samples) / SAMPLE_RATE == pytest.approx(9.01, abs=0.05)
    assert np.corrcoef(envelope(samples), envelope(expected))[0, 1] > 0.95
    assert warnings == []


def envelope(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Level of each 100 ms of the first 8.9 s."""
    levels: NDArray[np.float64] = np.sqrt(np.square(samples[: 89 * 1600].astype(float)).reshape(-1, 1600).mean(axis=1))
    return levels


async def test_a_track_says_what_it_was_made_of(claim: Claim, media: Path) -> None:
    async with demuxed(claim, media / "jfk.flac") as [audio]:
        track = audio.track
        assert (track.id, track.index, track.stream, track.channel) == ("downmix", 0, None, None)
        assert (track.codec, track.sample_rate, audio.of) == ("flac", 44_100, 1)
        assert claim.progress.audio_seconds_total == pytest.approx(11.0)
        assert claim.progress.tracks_total == 1


async def test_video_and_cover_art_are_passed_over(claim: Claim, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv", sound=clicks(0.5, seconds=1))
    samples, warnings = await mixed(claim, path)
    assert onsets(samples) == pytest.approx([0.5], abs=0.005)
    assert warnings == []


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4"])
async def test_of_a_selected_stream_alone_the_length_is_told(claim: Claim, tmp_path: Path, name: str) -> None:
    streams = [Stream([Part(0.0, tone(300, seconds=seconds))], codec="aac") for seconds in (9, 3)]
    job = asking(claim, processing_mode="select", track_index=1)
    async with demuxed(job, record(tmp_path / name, *streams)) as [track]:
        await heard(track)
        assert job.progress.audio_seconds_total == pytest.approx(3.0, abs=0.05)
        assert job.progress.audio_seconds_total == round(track.spool.seconds, 2)


async def test_a_broken_track_counts_as_long_as_it_was_heard(claim: Claim, tmp_path: Path) -> None:
    good = Stream([Part(0.0, tone(300, seconds=3))])
    path = record(tmp_path / "x.mkv", good, Stream(good.parts, codec="flac"))
    path.write_bytes(path.read_bytes().replace(b"\xff\xf8", b"\0\0"))  # the mark that begins a FLAC frame
    job = asking(claim, crosstalk="off")
    async with demuxed(job, path) as tracks:
        assert [len(await heard(track)) for track in tracks] == [3 * SAMPLE_RATE, 0]
        assert tracks[1].spool.error
        assert job.progress.audio_seconds_total == 3.0


async def test_a_hole_of_hours_that_the_file_states_is_a_hole(claim: Claim, tmp_path: Path) -> None:
    late = Part(9_000.0, clicks(9_000.5, seconds=1, rate=8_000, begins=9_000.0))
    path = record(tmp_path / "x.mkv", Stream([Part(0.0, clicks(0.5, seconds=1, rate=8_000)), late], 8_000, "flac"))
    async with demuxed(asking(claim, crosstalk="off"), path) as [track]:
        await heard(track)
        assert track.spool.seconds == pytest.approx(9_001.0, abs=0.001)
        assert onsets(await track.spool.read(9_000 * SAMPLE_RATE, SAMPLE_RATE)) == pytest.approx([0.5], abs=0.001)
        assert track.spool.warnings == ()


async def test_a_recording_that_is_too_long_is_refused(claim: Claim, media: Path) -> None:
    async with demuxed(claim, media / "sonnet_p001.mp3", audio=AudioSettings(max_seconds=20)) as [track]:
        await heard(track)
        assert isinstance(track.spool.error, MediaTooLarge)
        assert "20 s" in str(track.spool.error)
        assert track.spool.seconds <= 20


async def test_a_job_whose_tracks_need_more_disk_than_there_is_is_refused(claim: Claim, media: Path) -> None:
    error = await refusal(claim, media / "jfk.flac", audio=AudioSettings(scratch_bytes=11 * 32_000))
    assert isinstance(error, MediaTooLarge)
    assert "AUDIO__SCRATCH_BYTES" in error.detail
    async with demuxed(claim, media / "jfk.flac", audio=AudioSettings(scratch_bytes=12 * 32_000)) as [track]:
        assert len(await heard(track)) == 11 * SAMPLE_RATE


async def test_a_track_that_is_not_there_cannot_be_selected(claim: Claim, media: Path) -> None:
    error = await refusal(asking(claim, processing_mode="select", track_index=3), media / "jfk.flac")
    assert isinstance(error, TrackNotFound)


@pytest.mark.parametrize("rate", [1, 1_000, 3_999, 99_999_989])
async def test_a_rate_at_which_nobody_records_is_refused_before_it_costs_memory(
    claim: Claim, tmp_path: Path, rate: int
) -> None:
    path = record(tmp_path / "x.wav", Stream([Part(0.0, tone(300, seconds=2, rate=8_000))], 8_000))
    wav = bytearray(path.read_bytes())
    at = wav.index(b"fmt ") + 12
    wav[at : at + 4] = rate.to_bytes(4, "little")
    path.write_bytes(wav)
    async with demuxed(claim, path) as [track]:
        await heard(track)
        assert isinstance(track.spool.error, MediaUnsupported)
        assert f"{rate} Hz" in track.spool.error.detail
        assert track.spool.seconds == 0


async def test_a_full_disk_is_told_without_its_path_and_may_pass(
    claim: Claim, media: Path, logs: list[EventDict]
) -> None:
    (claim.scratch / "track-0.pcm").symlink_to("/dev/full")
    async with demuxed(claim, media / "jfk.flac") as [track]:
        await heard(track)
    assert isinstance(track.spool.error, Internal)
    assert track.spool.error.retryable
    assert "No space left on device" in track.spool.error.detail
    assert str(claim.scratch) not in track.spool.error.detail
    assert [(line["event"], line["exc_info"]) for line in logs] == [("decoding-failed", True)]


async def test_a_bug_is_told_to_the_log_alone_and_comes_again(
    claim: Claim, media: Path, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.lines.SCALES", {})
    async with demuxed(claim, media / "jfk.flac") as [track]:
        await heard(track)
    assert isinstance(track.spool.error, Internal)
    assert not track.spool.error.retryable
    assert track.spool.error.detail == Internal().detail
    assert [(line["event"], line["exc_info"]) for line in logs] == [("decoding-failed", True)]


async def test_when_a_claim_is_abandoned_decoding_stops_and_its_readers_are_told(claim: Claim, tmp_path: Path) -> None:
    long = Stream([Part(0.0, tone(300, seconds=1200, rate=8_000))], 8_000, "flac")
    demuxer = Demuxer(AudioSettings())
    async with demuxer.running():
        [track] = [track async for track in demuxer.handle(claim, Media((record(tmp_path / "x.flac", long),)))]
        await track.spool.read(0, SAMPLE_RATE)
        claim.abandon(Why.CANCELLED)
        await claim.resources.aclose()
        assert track.spool.ended
        assert track.spool.seconds < 1200
        assert isinstance(track.spool.error, JobError)


async def test_leaving_the_stage_waits_for_its_threads(claim: Claim, media: Path) -> None:
    demuxer = Demuxer(AudioSettings())
    async with demuxer.running():
        [track] = [track async for track in demuxer.handle(claim, Media((media / "jfk.flac",)))]
    assert track.spool.ended
    assert track.spool.seconds == pytest.approx(11.0, abs=0.001)
    await claim.resources.aclose()
