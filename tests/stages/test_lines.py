"""Lines: every stream and channel on a track of its own, at its right time, whatever becomes of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.claim import Claim
from pipeline.errors import MediaUnsupported
from stages.spool import SAMPLE_RATE
from tests.stages.hearing import asking, demuxed, heard, mixed, onsets
from tests.stages.making import Part, Stream, clicks, record, tone, write_wide


async def test_opposite_phases_do_not_cancel_out(claim: Claim, tmp_path: Path) -> None:
    sound = tone(300, seconds=3, rate=48_000)
    path = record(tmp_path / "x.wav", Stream([Part(0.0, np.concatenate([sound, -0.9 * sound]))]))
    samples, _ = await mixed(claim, path)
    assert np.abs(samples[800:-800]).max() == pytest.approx(0.3 * 32768, rel=0.01)
    for split in ("auto", "never"):
        async with demuxed(asking(claim, split_channels=split), path) as [track, *_]:
            assert np.abs((await heard(track))[800:-800]).max() == pytest.approx(0.3 * 32768, rel=0.01)


async def test_samples_of_64_bits_are_heard(claim: Claim, tmp_path: Path) -> None:
    left, right = clicks(0.5, seconds=2, rate=16_000), clicks(1.5, seconds=2, rate=16_000)
    path = tmp_path / "x.wav"
    write_wide(path, np.concatenate([left, right]), 16_000)
    async with demuxed(asking(claim, split_channels="always", crosstalk="off"), path) as tracks:
        sounds = [await heard(track) for track in tracks]
        assert [onsets(sound) for sound in sounds] == [pytest.approx([0.5], abs=0.001), pytest.approx([1.5], abs=0.001)]
        assert max(sounds[0]) == pytest.approx(0.6 * 32768, rel=0.02)


async def test_every_channel_of_a_stream_is_a_track_of_its_own(claim: Claim, tmp_path: Path) -> None:
    left, right = clicks(1.0, seconds=3), clicks(2.0, seconds=3)
    path = record(tmp_path / "x.mkv", Stream([Part(0.0, np.concatenate([left, right]))], codec="aac"))
    async with demuxed(asking(claim, split_channels="always", crosstalk="off"), path) as tracks:
        assert [(track.track.id, track.track.channel) for track in tracks] == [("0:0", 0), ("0:1", 1)]
        found = [onsets(await heard(track)) for track in tracks]
        assert found == [pytest.approx([1.0], abs=0.005), pytest.approx([2.0], abs=0.005)]


@pytest.mark.parametrize("channel", [0, 1])
async def test_one_channel_can_be_selected(claim: Claim, tmp_path: Path, channel: int) -> None:
    both = np.concatenate([clicks(1.0, seconds=3), clicks(2.0, seconds=3)])
    path = record(tmp_path / "x.mkv", Stream([Part(0.0, clicks(0.5, seconds=3))]), Stream([Part(0.0, both)]))
    job = asking(claim, processing_mode="select", track_index=1 + channel, split_channels="always")
    async with demuxed(job, path) as [track]:
        assert track.track.id == f"1:{channel}"
        assert onsets(await heard(track)) == pytest.approx([1.0 + channel], abs=0.001)


async def test_a_selected_stream_that_is_shorter_than_its_file_is_not_cut_off(claim: Claim, tmp_path: Path) -> None:
    short, long = Stream([Part(0.0, clicks(0.5, seconds=1))]), Stream([Part(0.0, clicks(2.0, seconds=9))])
    path = record(tmp_path / "x.mkv", short, long)
    async with demuxed(asking(claim, processing_mode="select", track_index=0), path) as [track]:
        assert onsets(await heard(track)) == pytest.approx([0.5], abs=0.001)
        assert track.spool.seconds == pytest.approx(1.0, abs=0.001)
        assert track.spool.warnings == ()


async def test_a_channel_that_ends_in_mid_stream_is_silent_from_there_on(claim: Claim, tmp_path: Path) -> None:
    stereo = Stream([Part(0.0, clicks(1.0, seconds=2, channels=2))], codec="libmp3lame")
    mono = Stream([Part(0.0, clicks(1.0, seconds=2))], codec="libmp3lame")
    both = tmp_path / "both.mp3"
    pieces = [record(tmp_path / "a.mp3", stereo, write_xing="0"), record(tmp_path / "b.mp3", mono, write_xing="0")]
    both.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    async with demuxed(asking(claim, split_channels="always", crosstalk="off"), both) as tracks:
        left, right = [onsets(await heard(track)) for track in tracks]
        assert tracks[0].spool.error is None
        assert left == pytest.approx([1.0, 3.0], abs=0.15)  # encoders' delays that nothing tells
        assert right == pytest.approx([1.0], abs=0.15)
        assert tracks[0].spool.seconds == tracks[1].spool.seconds


async def test_an_odd_rate_in_one_of_several_files_breaks_its_track_alone(claim: Claim, tmp_path: Path) -> None:
    good = record(tmp_path / "good.wav", Stream([Part(0.0, clicks(0.5, seconds=1))]))
    odd = tmp_path / "odd.wav"
    odd.write_bytes(good.read_bytes().replace((48_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"), 1))
    async with demuxed(asking(claim, crosstalk="off"), odd, good) as tracks:
        sounds = [await heard(track) for track in tracks]
        assert [type(track.spool.error) for track in tracks] == [MediaUnsupported, type(None)]
        assert onsets(sounds[1]) == pytest.approx([0.5], abs=0.001)


async def test_a_stream_without_a_packet_beside_others_is_silent(claim: Claim, tmp_path: Path) -> None:
    part = Part(0.0, clicks(0.5, seconds=1))
    full, empty = Stream([part]), Stream([part], lost=(0.0, 1.0))
    path = record(tmp_path / "x.mkv", empty, full)
    async with demuxed(asking(claim, split_channels="never", crosstalk="off"), path) as tracks:
        assert [len(await heard(track)) for track in tracks] == [0, SAMPLE_RATE]
        assert [track.spool.error for track in tracks] == [None, None]


async def test_three_codecs_and_three_rates_in_one_file_keep_one_clock(claim: Claim, tmp_path: Path) -> None:
    streams = [
        Stream([Part(0.0, clicks(3.0, seconds=6, rate=44_100))], 44_100, "aac"),
        Stream([Part(2.5, clicks(3.0, 4.0, seconds=3, rate=16_000, begins=2.5))], 16_000, "flac"),
        Stream([Part(0.5, clicks(3.0, seconds=3, begins=0.5))], 48_000, "libopus"),
    ]
    path = record(tmp_path / "x.mkv", *streams)
    async with demuxed(asking(claim, crosstalk="off"), path) as tracks:
        found = [onsets(await heard(track)) for track in tracks]
        assert found == [pytest.approx(times, abs=0.005) for times in ([3.0], [3.0, 4.0], [3.0])]
        assert [track.spool.begins for track in tracks] == pytest.approx([0.0, 2.5, 0.5], abs=0.03)
        assert [track.track.codec for track in tracks] == ["aac", "flac", "opus"]


@pytest.mark.parametrize(
    ("name", "codec", "rate", "within"),
    [
        ("x.mkv", "pcm_s16le", 44_100, 0.005),
        ("x.mkv", "libmp3lame", 44_100, 0.005),
        ("x.mka", "aac", 48_000, 0.005),
        ("x.mp4", "aac", 44_100, 0.005),
        ("x.m4a", "aac", 16_000, 0.005),
        ("x.mov", "pcm_s16le", 48_000, 0.005),
        ("x.webm", "libopus", 48_000, 0.005),
        ("x.ogg", "libopus", 48_000, 0.005),
        ("x.ogg", "flac", 44_100, 0.005),
        ("x.mp3", "libmp3lame", 44_100, 0.005),
        ("x.mp3", "libmp3lame", 16_000, 0.005),
        ("x.wav", "pcm_s16le", 8_000, 0.005),
        ("x.flac", "flac", 48_000, 0.005),
        ("x.ts", "aac", 48_000, 0.025),
    ],
)
async def test_a_click_is_heard_when_a_player_plays_it(
    claim: Claim, tmp_path: Path, name: str, codec: str, rate: int, within: float
) -> None:
    path = record(tmp_path / name, Stream([Part(0.0, clicks(0.5, 5.5, seconds=6, rate=rate))], rate, codec))
    samples, _ = await mixed(claim, path)
    assert onsets(samples) == pytest.approx([0.5, 5.5], abs=within)
