"""Tracks of which something must be known to the end: voices or stereo, duplicates, cross-talk, and what is broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import from_thread

from pipeline.claim import Claim, Why
from pipeline.errors import MediaCorrupt, MediaTooLarge, MediaUnsupported
from pipeline.settings import AudioSettings
from stages.channels import Pair, compare
from stages.demuxer import Demuxer
from stages.likeness import Heard
from stages.messages import Media, TrackAudio
from stages.spool import BYTES_PER_SECOND, SAMPLE_RATE
from stages.voice import threads as voice_threads
from tests.stages.hearing import asking, demuxed, heard, onsets, refusal
from tests.stages.making import Part, Sound, Stream, clicks, record, sound_of, tone
from tests.stages.waiting import until


def voice(media: Path, name: str, *, seconds: float, at: float = 0.0) -> Sound:
    """A recorded voice that begins at ``at``, mono, 16 kHz, so long in all."""
    sound, rate = sound_of(media / name)
    spoken = np.interp(np.arange(0, sound.shape[1], rate / SAMPLE_RATE), np.arange(sound.shape[1]), sound.mean(axis=0))
    whole = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    begins = round(at * SAMPLE_RATE)
    whole[begins : begins + len(spoken)] = spoken[: len(whole) - begins]
    return whole[None]


def stream(*channels: Sound, codec: str = "pcm_s16le") -> Stream:
    return Stream([Part(0.0, np.concatenate(channels))], SAMPLE_RATE, codec)


@pytest.fixture
def agent(media: Path) -> Sound:
    return voice(media, "jfk.flac", seconds=24)


@pytest.fixture
def customer(media: Path) -> Sound:
    return voice(media, "austen_0880.flac", seconds=24, at=12)


def summary(tracks: Sequence[TrackAudio]) -> list[tuple[str, int, str, str | None]]:
    return [(audio.track.id, audio.track.index, audio.track.status, audio.track.duplicate_of) for audio in tracks]


async def test_a_call_becomes_two_tracks_with_their_speech(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    path = record(tmp_path / "call.wav", stream(agent, customer))
    job = asking(claim, tracks=[{"index": 0, "label": "agent"}, {"index": 1, "label": "customer"}])
    async with demuxed(job, path) as [left, right]:
        assert summary([left, right]) == [("0:0", 0, "transcribed", None), ("0:1", 1, "transcribed", None)]
        assert (left.track.label, right.track.label) == ("agent", "customer")
        assert left.speech is not None
        assert right.speech is not None
        assert left.speech[-1].end < 11.5 * SAMPLE_RATE < right.speech[0].start
        assert np.abs(await heard(left) - agent[0] * 32768).max() <= 1
        assert job.progress.audio_seconds_total == pytest.approx(48)
        assert job.progress.tracks_total == 2


async def test_a_call_of_two_voices_is_too_much_where_one_track_is_taken(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    path = record(tmp_path / "call.wav", stream(agent, customer))
    error = await refusal(asking(claim), path, audio=AudioSettings(max_tracks=1))
    assert isinstance(error, MediaTooLarge)
    assert "2 tracks; at most 1" in error.detail


async def test_stereo_stays_one_track_and_its_sides_leave_the_disk(claim: Claim, tmp_path: Path, agent: Sound) -> None:
    path = record(tmp_path / "talk.wav", stream(agent, 0.5 * agent + tone(200, seconds=24, rate=16_000, level=0.05)))
    async with demuxed(asking(claim), path) as [audio]:
        assert summary([audio]) == [("0:0", 0, "transcribed", None)]
        assert audio.track.channel is None
        assert audio.speech
        assert audio.spool.seconds == pytest.approx(24, abs=0.001)
        expected = (agent + 0.5 * agent + tone(200, seconds=24, rate=16_000, level=0.05))[0] / 2 * 32768
        assert np.abs(await heard(audio) - expected).max() <= 2
        assert len(list(claim.scratch.iterdir())) == 1


async def test_stereo_that_begins_late_begins_late_as_one_track(claim: Claim, tmp_path: Path, agent: Sound) -> None:
    late = Stream([Part(2.5, np.concatenate([agent, 0.5 * agent[:, ::-1] + 0.5 * agent]))], SAMPLE_RATE)
    path = record(tmp_path / "x.mkv", stream(0.01 * tone(50, seconds=3, rate=16_000)), late)
    async with demuxed(asking(claim), path) as [_, audio]:
        assert audio.track.channel is None
        assert audio.spool.begins == pytest.approx(2.5, abs=0.001)
        assert audio.spool.seconds == pytest.approx(26.5, abs=0.001)


@pytest.mark.parametrize("sign", [1, -1])
async def test_dual_mono_is_one_track_and_a_duplicate(claim: Claim, tmp_path: Path, agent: Sound, sign: int) -> None:
    path = record(tmp_path / "dual.wav", stream(agent, sign * agent))
    async with demuxed(job := asking(claim), path) as tracks:
        assert summary(tracks) == [("0:0", 0, "transcribed", None), ("0:1", 1, "duplicate", "0:0")]
        assert [(notice.code, notice.track) for notice in tracks[1].spool.warnings] == [("track-duplicate", "0:1")]
        assert job.progress.audio_seconds_total == pytest.approx(24)


async def test_dual_mono_stays_a_duplicate_whatever_offsets_it_is_given(
    claim: Claim, tmp_path: Path, agent: Sound
) -> None:
    path = record(tmp_path / "dual.wav", stream(agent, agent))
    job = asking(claim, tracks=[{"index": 0, "offset_seconds": 1.0}, {"index": 1, "offset_seconds": 3.0}])
    async with demuxed(job, path) as tracks:
        assert [audio.track.status for audio in tracks] == ["transcribed", "duplicate"]
        assert [audio.spool.begins for audio in tracks] == [1.0, 1.0]
        assert [notice.code for notice in tracks[1].spool.warnings] == ["track-not-found", "track-duplicate"]


async def test_stereo_that_is_moved_is_still_one_track_and_tells_which_description_it_did_not_use(
    claim: Claim, tmp_path: Path, agent: Sound
) -> None:
    path = record(tmp_path / "talk.wav", stream(agent, 0.5 * agent + tone(200, seconds=24, rate=16_000, level=0.05)))
    tracks = [{"index": 0, "label": "talk"}, {"index": 1, "label": "other", "offset_seconds": 5.0}]
    async with demuxed(asking(claim, tracks=tracks), path) as [audio]:
        assert (audio.track.channel, audio.track.label, audio.spool.begins) == (None, "talk", 0.0)
        [notice] = audio.spool.warnings
        assert notice.code == "track-not-found"
        assert notice.detail.startswith("The label, language or offset given for track 1 is not used")


async def test_the_same_sound_in_two_streams_is_transcribed_once(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    path = record(tmp_path / "x.mkv", stream(agent), stream(customer), stream(agent))
    async with demuxed(asking(claim), path) as tracks:
        assert [audio.track.duplicate_of for audio in tracks] == [None, None, "0:0"]


async def test_who_is_heard_on_another_track_is_found_there(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    path = record(tmp_path / "room.mkv", stream(agent + 0.1 * customer), stream(customer + 0.1 * agent))
    async with demuxed(asking(claim), path) as tracks:
        assert [{bleed.source for bleed in audio.bleed} for audio in tracks] == [{"1:0"}, {"0:0"}]
    async with demuxed(asking(claim, crosstalk="off"), path) as tracks:
        assert [audio.bleed for audio in tracks] == [(), ()]


async def test_a_broken_stream_among_good_ones_is_a_broken_track(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    good, bad = stream(agent), stream(customer, codec="flac")
    path = record(tmp_path / "x.mkv", good, bad, good)
    path.write_bytes(path.read_bytes().replace(b"\xff\xf8", b"\0\0"))  # the mark that begins a FLAC frame
    async with demuxed(asking(claim), path) as tracks:
        assert [type(audio.spool.error) for audio in tracks] == [type(None), MediaCorrupt, type(None)]
        assert [audio.track.duplicate_of for audio in tracks] == [None, None, "0:0"]
        assert tracks[0].speech


async def test_silent_and_broken_tracks_alone_are_handed_on_too(claim: Claim, tmp_path: Path) -> None:
    nothing = np.zeros((2, 3 * SAMPLE_RATE), np.float32)
    path = record(tmp_path / "x.mkv", stream(nothing), stream(nothing[:1]), stream(nothing, codec="flac"))
    path.write_bytes(path.read_bytes().replace(b"\xff\xf8", b"\0\0"))
    async with demuxed(asking(claim), path) as tracks:
        assert {audio.track.stream for audio in tracks} == {0, 1, 2}
        assert [audio.speech for audio in tracks] == [()] * len(tracks)
        assert [audio.track.id for audio in tracks if audio.spool.error] == ["2:0"]
        assert all(audio.of == len(tracks) for audio in tracks)


async def test_a_file_that_cannot_be_opened_is_a_broken_track(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    one, other = record(tmp_path / "one.wav", stream(agent)), record(tmp_path / "other.wav", stream(customer))
    text = tmp_path / "text.wav"
    text.write_text("Not a recording.")
    async with demuxed(asking(claim), one, text, other) as tracks:
        assert [type(audio.spool.error) for audio in tracks] == [type(None), MediaUnsupported, type(None)]
        assert [audio.track.id for audio in tracks] == ["0:0", "1:0", "2:0"]
        assert [audio.track.metadata["file"] for audio in tracks] == ["0", "1", "2"]


async def test_an_empty_file_among_good_ones_is_a_broken_track(claim: Claim, tmp_path: Path, agent: Sound) -> None:
    good, empty = record(tmp_path / "good.wav", stream(agent)), tmp_path / "empty.wav"
    empty.touch()
    async with demuxed(asking(claim), good, empty) as [track, broken]:
        assert track.spool.error is None
        assert isinstance(broken.spool.error, MediaUnsupported)
        assert broken.spool.error.detail == "File 1 is empty."


async def test_where_no_file_can_be_opened_the_job_fails(claim: Claim, tmp_path: Path) -> None:
    texts = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path in texts:
        path.write_text("Not a recording.")
    with pytest.raises(BaseExceptionGroup) as raised:
        async with demuxed(asking(claim), *texts):
            pass
    assert raised.group_contains(MediaUnsupported)


async def test_a_recording_that_is_too_long_fails_every_track(claim: Claim, tmp_path: Path, agent: Sound) -> None:
    path = record(tmp_path / "x.mkv", stream(agent[:, : 5 * SAMPLE_RATE]), stream(agent))
    async with demuxed(asking(claim), path, audio=AudioSettings(max_seconds=20)) as tracks:
        assert [type(audio.spool.error) for audio in tracks] == [MediaTooLarge, MediaTooLarge]


async def test_files_lie_where_their_offsets_put_them(claim: Claim, tmp_path: Path) -> None:
    paths = [record(tmp_path / f"{n}.wav", Stream([Part(0.0, clicks(2.0, 4.0, seconds=5))])) for n in range(3)]
    job = asking(
        claim,
        crosstalk="off",
        tracks=[{"index": 1, "offset_seconds": 3.25}, {"index": 2, "offset_seconds": -2.5}],
    )
    async with demuxed(job, *paths) as tracks:
        sounds = [await heard(audio) for audio in tracks]
        assert [onsets(sound) for sound in sounds] == [
            pytest.approx([2.0, 4.0], abs=0.005),
            pytest.approx([5.25, 7.25], abs=0.005),
            pytest.approx([1.5], abs=0.005),
        ]
        assert [audio.spool.begins for audio in tracks] == pytest.approx([0.0, 3.25, 0.0], abs=0.005)
        assert [audio.spool.seconds for audio in tracks] == pytest.approx([5.0, 8.25, 2.5], abs=0.005)


async def test_an_offset_beyond_the_longest_recording_fails_its_track_alone(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound
) -> None:
    paths = [record(tmp_path / f"{n}.wav", stream(sound)) for n, sound in enumerate((agent, customer))]
    job = asking(claim, tracks=[{"index": 1, "offset_seconds": 50.0}])
    async with demuxed(job, *paths, audio=AudioSettings(max_seconds=60)) as tracks:
        assert [type(audio.spool.error) for audio in tracks] == [type(None), MediaTooLarge]
        assert "offset of 50 s the track is longer than 60 s" in str(tracks[1].spool.error)
        assert tracks[1].spool.seconds <= 60


async def test_while_channels_are_compared_no_thread_of_the_speech_detector_is_taken(
    claim: Claim, tmp_path: Path, agent: Sound, customer: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def watched(left: Heard, right: Heard) -> Pair:
        taken.append(from_thread.run_sync(lambda: voice_threads().borrowed_tokens))
        return compare(left, right)

    monkeypatch.setattr("stages.judging.compare", watched)
    async with demuxed(asking(claim), record(tmp_path / "call.wav", stream(agent, customer))) as tracks:
        assert len(tracks) == 2
    assert taken == [0]


async def test_with_nothing_to_judge_tracks_are_handed_on_while_they_grow(claim: Claim, tmp_path: Path) -> None:
    long = Stream([Part(0.0, tone(300, seconds=300, rate=8_000))], 8_000, "flac")
    path = record(tmp_path / "x.mkv", long, long)
    async with demuxed(asking(claim, crosstalk="off", split_channels="never"), path) as tracks:
        assert [audio.speech for audio in tracks] == [None, None]
        assert not any(audio.spool.ended for audio in tracks)
        for audio in tracks:
            assert len(await heard(audio)) == 300 * SAMPLE_RATE


async def test_a_claim_abandoned_while_its_tracks_are_judged_gives_back_its_disk(claim: Claim, tmp_path: Path) -> None:
    long = Stream([Part(0.0, tone(300, seconds=300, rate=8_000))], 8_000, "flac")
    path = record(tmp_path / "x.mkv", long, long)
    job = asking(claim)
    demuxer = Demuxer(AudioSettings(scratch_bytes=2 * 301 * BYTES_PER_SECOND))
    async with demuxer.running():
        with anyio.CancelScope() as scope, job.holding(scope):
            async with anyio.create_task_group() as group:
                group.start_soon(abandon_once_decoding, job)
                [_ async for _ in demuxer.handle(job, Media((path,)))]
        await job.resources.aclose()
        assert scope.cancelled_caught
        async with (again := asking(claim)).resources:
            assert len([_ async for _ in demuxer.handle(again, Media((path,)))]) == 2


async def abandon_once_decoding(job: Claim) -> None:
    await until(lambda: any(job.scratch.iterdir()))
    job.abandon(Why.CANCELLED)
