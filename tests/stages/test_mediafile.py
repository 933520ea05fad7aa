"""Media files: which may be opened, and what is kept of a broken one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.claim import Claim
from pipeline.errors import MediaCorrupt, MediaUnsupported
from pipeline.settings import AudioSettings
from stages.mediafile import MediaFile
from stages.spool import BYTES_PER_SECOND, SAMPLE_RATE
from tests.stages.hearing import asking, demuxed, heard, mixed, onsets, refusal
from tests.stages.making import Part, Stream, clicks, film, record, tone


def half_of(path: Path, folder: Path) -> Path:
    half = folder / f"half-{path.name}"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return half


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("Just text, named like music.", id="text"),
        pytest.param("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n", id="hls"),
        pytest.param("ffconcat version 1.0\nfile {target}\n", id="ffconcat"),
        pytest.param("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", id="sdp"),
        pytest.param("[Playlist]\nFile1={target}\nNumberOfEntries=1\n", id="pls"),
        pytest.param('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>', id="dash"),
    ],
)
@pytest.mark.parametrize("name", ["media-0", "song.mp3", "list.m3u8"])
async def test_what_is_not_media_or_names_other_files_is_refused(
    claim: Claim, media: Path, tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content.format(target=media / "sonnet_clip.mp3"))
    error = await refusal(claim, path)
    assert isinstance(error, MediaUnsupported)
    assert "not audio or video" in error.detail


async def test_an_empty_file_is_called_empty(claim: Claim, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.touch()
    error = await refusal(claim, path)
    assert isinstance(error, MediaUnsupported)
    assert error.detail == "The file is empty."


async def test_a_video_without_sound_is_refused(claim: Claim, tmp_path: Path) -> None:
    error = await refusal(claim, film(tmp_path / "silent.mp4", sound=None))
    assert isinstance(error, MediaUnsupported)
    assert "no audio stream" in error.detail


async def test_an_unknown_codec_is_refused(claim: Claim, tmp_path: Path) -> None:
    path = record(tmp_path / "x.wav", Stream([Part(0.0, clicks(seconds=1))]))
    wav = bytearray(path.read_bytes())
    at = wav.index(b"fmt ") + 8
    wav[at : at + 2] = b"\x99\x99"
    path.write_bytes(wav)
    error = await refusal(claim, path)
    assert isinstance(error, MediaUnsupported)
    assert "No decoder" in error.detail


async def test_what_libav_asks_a_sample_of_is_refused(claim: Claim, tmp_path: Path) -> None:
    unheard_of = b".snd" + b"".join(n.to_bytes(4, "big") for n in (24, 8, 0x99, 8_000, 1)) + bytes(8)
    path = tmp_path / "x.au"
    path.write_bytes(unheard_of)
    error = await refusal(claim, path)
    assert isinstance(error, MediaUnsupported)
    assert "not audio or video" in error.detail


async def test_an_mp4_that_lost_its_index_is_called_incomplete(claim: Claim, media: Path, tmp_path: Path) -> None:
    error = await refusal(claim, half_of(media / "sonnet_clip.mp4", tmp_path))
    assert isinstance(error, MediaCorrupt)
    assert "send it whole" in error.detail


@pytest.mark.parametrize(
    "name", ["jfk.flac", "sonnet_clip.mp3", "sonnet_clip.webm", "sonnet_clip.ogg", "x.wav", "x.mkv"]
)
async def test_of_a_file_cut_in_half_the_first_half_is_kept_with_a_warning(
    claim: Claim, media: Path, tmp_path: Path, name: str
) -> None:
    whole = media / name
    if not whole.exists():
        whole = record(tmp_path / name, Stream([Part(0.0, tone(300, seconds=9))]))
    samples, warnings = await mixed(claim, half_of(whole, tmp_path))
    assert 3.5 < len(samples) / SAMPLE_RATE < 6
    assert "media-truncated" in warnings


@pytest.mark.parametrize("rate", [44_100, 22_050, 11_025, 8_000])
@pytest.mark.parametrize("lost", [1, 30])
async def test_an_mp3_without_a_length_tells_that_it_was_cut_off_within_a_frame(
    claim: Claim, tmp_path: Path, rate: int, lost: int
) -> None:
    stream = Stream([Part(0.0, tone(300, seconds=3, rate=rate))], rate, "libmp3lame")
    path = record(tmp_path / "x.mp3", stream, write_xing="0")
    _, warnings = await mixed(claim, path)
    assert warnings == []
    path.write_bytes(path.read_bytes()[:-lost])
    samples, warnings = await mixed(Claim(claim.job, scratch=claim.scratch), path)
    assert warnings == ["media-truncated"]
    assert len(samples) / SAMPLE_RATE == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("behind", [b"TAG" + bytes(125), b"APETAGEX" + bytes(24), bytes(1000)])
async def test_what_follows_the_last_frame_of_an_mp3_is_no_sign_of_a_cut(
    claim: Claim, tmp_path: Path, behind: bytes
) -> None:
    stream = Stream([Part(0.0, tone(300, seconds=3, rate=44_100))], 44_100, "libmp3lame")
    path = record(tmp_path / "x.mp3", stream, write_xing="0")
    path.write_bytes(path.read_bytes() + behind)
    _, warnings = await mixed(claim, path)
    assert "media-truncated" not in warnings


@pytest.mark.parametrize("m2ts", ["0", "1"])
async def test_a_transport_stream_tells_that_it_was_cut_off_within_a_packet(
    claim: Claim, tmp_path: Path, m2ts: str
) -> None:
    stream = Stream([Part(0.0, tone(300, seconds=3))], codec="mp2")
    path = record(tmp_path / "x.ts", stream, mpegts_m2ts_mode=m2ts)
    _, warnings = await mixed(claim, path)
    assert warnings == []
    path.write_bytes(path.read_bytes()[:-50])
    _, warnings = await mixed(Claim(claim.job, scratch=claim.scratch), path)
    assert warnings == ["media-truncated"]


@pytest.mark.parametrize("kept", [3, 4, 5, 6, 27])
async def test_an_ogg_file_may_be_cut_off_within_the_head_of_a_page(
    claim: Claim, media: Path, tmp_path: Path, kept: int
) -> None:
    data = (media / "sonnet_clip.ogg").read_bytes()
    path = tmp_path / "x.ogg"
    path.write_bytes(data[: data.rindex(b"OggS") + kept])
    samples, warnings = await mixed(claim, path)
    assert len(samples) / SAMPLE_RATE > 7
    assert warnings == ["media-truncated"]


async def test_what_lies_behind_damage_is_heard_at_its_time(claim: Claim, tmp_path: Path) -> None:
    sound = clicks(0.5, 5.5, seconds=6) + 0.01 * np.random.default_rng(1).standard_normal(6 * 48_000).astype(np.float32)
    path = record(tmp_path / "x.mkv", Stream([Part(0.0, sound)], codec="flac"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    samples, warnings = await mixed(claim, path)
    assert onsets(samples)[-1] == pytest.approx(5.5, abs=0.005)
    assert warnings == ["media-damaged"]


def spoilt(path: Path, frames: int) -> Path:
    """A file with so many frames of its FLAC at 44.1 kHz made unreadable."""
    path.write_bytes(re.sub(rb"\xff\xf8[\x59\x79]", bytes(3), path.read_bytes(), count=frames))
    return path


def two_rates(path: Path) -> Path:
    """A stream of 48 and one of 44.1 kHz, each of two seconds in 21 frames."""
    streams = [Stream([Part(0.0, tone(300, seconds=2, rate=rate))], rate, "flac") for rate in (48_000, 44_100)]
    return record(path, *streams)


async def test_damage_is_told_of_the_track_that_it_is_on(claim: Claim, tmp_path: Path) -> None:
    path = spoilt(two_rates(tmp_path / "x.mkv"), 7)
    async with demuxed(asking(claim, crosstalk="off"), path) as tracks:
        for track in tracks:
            await heard(track)
        [notice] = [notice for track in tracks for notice in track.spool.warnings]
    assert (notice.code, notice.track) == ("media-damaged", "1:0")
    assert notice.detail.endswith("are missing: 7.")


@pytest.mark.parametrize("split", ["auto", "always"])
async def test_damage_of_a_stereo_stream_is_told_once_a_track(claim: Claim, tmp_path: Path, split: str) -> None:
    stereo = np.tile(tone(300, seconds=2, rate=44_100), (2, 1))
    path = spoilt(record(tmp_path / "x.mkv", Stream([Part(0.0, stereo)], 44_100, "flac")), 7)
    async with demuxed(asking(claim, split_channels=split, crosstalk="off"), path) as tracks:
        for track in tracks:
            await heard(track)
            damage = [notice for notice in track.spool.warnings if notice.code == "media-damaged"]
            assert [notice.track for notice in damage] == [track.track.id]


async def test_a_track_that_failed_for_its_damage_is_not_called_damaged_too(claim: Claim, tmp_path: Path) -> None:
    path = spoilt(two_rates(tmp_path / "x.mkv"), 21)
    async with demuxed(asking(claim, crosstalk="off"), path) as tracks:
        for track in tracks:
            await heard(track)
        assert [type(track.spool.error) for track in tracks] == [type(None), MediaCorrupt]
        assert [track.spool.warnings for track in tracks] == [(), ()]


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [
        ("x.mp3", "libmp3lame", 44_100, {"write_xing": "0"}),
        ("x.mp3", "libmp3lame", 8_000, {"write_xing": "0"}),
        ("x.aac", "aac", 44_100, {}),
        ("x.aac", "aac", 8_000, {}),
        ("x.wav", "pcm_s16le", 8_000, {}),
        ("x.wav", "adpcm_ms", 44_100, {}),
        ("x.m4a", "aac", 44_100, {}),
    ],
)
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_how_long_a_file_may_be_is_bounded_by_its_size_and_never_less_than_it_is(
    tmp_path: Path, name: str, codec: str, rate: int, options: dict[str, str], level: float
) -> None:
    sound = tone(300, seconds=60, rate=rate, level=level)
    path = record(tmp_path / name, Stream([Part(0.0, sound)], rate, codec, bit_rate=8_000), **options)
    longest = MediaFile.open(path).longest_seconds
    assert longest is not None
    assert 59.9 < longest < 3600


async def test_files_without_a_length_take_no_more_disk_than_their_size_calls_for(claim: Claim, tmp_path: Path) -> None:
    stream = Stream([Part(0.0, tone(300, seconds=3))], codec="libmp3lame", bit_rate=64_000)
    paths = [record(tmp_path / f"{number}.mp3", stream, write_xing="0") for number in range(4)]
    disk = AudioSettings(scratch_bytes=4 * 30 * BYTES_PER_SECOND)  # at 8 kbit/s they would last 24 seconds each
    async with demuxed(asking(claim, crosstalk="off"), *paths, audio=disk) as tracks:
        assert [len(await heard(track)) // SAMPLE_RATE for track in tracks] == [3, 3, 3, 3]


async def test_where_nothing_can_be_decoded_the_media_is_corrupt(claim: Claim, tmp_path: Path) -> None:
    path = record(tmp_path / "x.mkv", Stream([Part(0.0, tone(300, seconds=2))], codec="flac"))
    path.write_bytes(path.read_bytes().replace(b"\xff\xf8", b"\0\0"))  # the mark that begins a FLAC frame
    async with demuxed(claim, path) as [track]:
        await heard(track)
        assert isinstance(track.spool.error, MediaCorrupt)


@pytest.mark.parametrize("name", ["x.aac", "x.mp3", "x.m4a", "x.ts", "x.avi", "x.flv", "x.aiff", "x.caf", "x.w64"])
async def test_a_whole_file_comes_without_warnings(claim: Claim, tmp_path: Path, name: str) -> None:
    codec = {
        "mp3": "libmp3lame",
        "avi": "ac3",
        "aiff": "pcm_s16be",
        "caf": "pcm_s16be",
        "w64": "pcm_s16le",
    }
    sound = clicks(1.0, 11.0, seconds=12, rate=44_100)
    stream = Stream([Part(0.0, sound)], 44_100, codec.get(name.partition(".")[2], "aac"))
    samples, warnings = await mixed(claim, record(tmp_path / name, stream))
    assert onsets(samples) == pytest.approx([1.0, 11.0], abs=0.06)
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "codec"),
    [("x.wav", "pcm_s16le"), ("x.flac", "flac"), ("x.mp3", "libmp3lame"), ("x.mkv", "pcm_s16le")],
)
async def test_a_tag_in_latin_1_does_not_keep_a_file_from_being_heard(
    claim: Claim, tmp_path: Path, name: str, codec: str
) -> None:
    path = record(tmp_path / name, Stream([Part(0.0, clicks(0.5, seconds=1))], codec=codec))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"Lav\xe9").replace(b"Lavc", b"Lav\xe9"))
    samples, _ = await mixed(claim, path)
    assert onsets(samples) == pytest.approx([0.5], abs=0.06)


async def test_a_film_may_outlast_its_sound(claim: Claim, tmp_path: Path) -> None:
    samples, warnings = await mixed(claim, film(tmp_path / "film.mp4", sound=clicks(0.5, seconds=1), seconds=8))
    assert len(samples) < 2 * SAMPLE_RATE
    assert warnings == []
