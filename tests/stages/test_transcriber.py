"""The transcriber: every word of a track at its time in the media, and no error of one track on another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, JobError, MediaCorrupt
from pipeline.jobs import Job, Progress
from pipeline.settings import AudioSettings
from pipeline.transcript import Crosstalk, Notice, Track
from stages.engines import CancelFlag, Draft, DraftWord, Options, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from stages.engines.room import ModelRoom
from stages.messages import Bleed, TrackAudio, TrackTranscript
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.transcriber import Transcriber
from tests.stages.making import resampled, sound_of
from tests.stages.waiting import until

Samples = NDArray[np.int16]
DAMAGE = Notice(code="media-damaged", detail="A piece is missing.")


class Scripted(MockEngine):
    """Gives these answers in the order in which windows are prepared, and then those of the mock engine."""

    def __init__(self, *answers: Draft | WindowError, seconds: float = 0.0) -> None:
        super().__init__(Script(max_batch=1, window_seconds=seconds))
        self._answers = iter(answers)
        self._scripted: list[tuple[Prepared, Draft | WindowError]] = []
        self.asked: list[Options] = []
        self.given: list[Window] = []
        self.done = self.most_at_once = 0

    def prepare(self, window: Window) -> Prepared:
        item = super().prepare(window)
        self.asked.append(window.options)
        self.given.append(window)
        self.most_at_once = max(self.most_at_once, len(self.asked) - self.done)
        if answer := next(self._answers, None):
            self._scripted.append((item, answer))
        return item

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        (item,), answers = batch, super().run(batch, cancel)
        self.done += 1
        return [answer for known, answer in self._scripted if known is item] or answers


def draft(*times: tuple[float, float], language: str = "en", probability: float | None = 0.9) -> Draft:
    words = tuple(DraftWord(f" {n}", start, end, 0.5) for n, (start, end) in enumerate(times))
    text = "".join(word.word for word in words).strip()
    return Draft(text, words, language, probability, -0.25, 0.125, 1.5)


SILENCE = draft(language="cy")


async def spooled(path: Path, *parts: Samples, begins: float = 0.0, error: JobError | None = None) -> TrackAudio:
    """A track whose sound begins at so many seconds."""

    def write() -> None:
        spool.mix(round(begins * SAMPLE_RATE), np.concatenate([np.zeros(0, np.int16), *parts]))
        spool.finish(error, (DAMAGE,))

    spool = Spool(path)
    await to_thread.run_sync(write)
    return TrackAudio(Track(id="downmix", index=0, stream=None, channel=None), spool, of=1)


def known(audio: TrackAudio, **facts: object) -> TrackAudio:
    """The same audio, of a track of which this is known."""
    return replace(audio, track=Track.model_validate({**audio.track.model_dump(), **facts}))


def stretch(start: float, end: float) -> Region:
    return Region(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))


async def transcribed(claim: Claim, engine: MockEngine, track: TrackAudio) -> TrackTranscript:
    [heard] = await side_by_side(claim, engine, track)
    return heard


async def side_by_side(claim: Claim, engine: MockEngine, *tracks: TrackAudio) -> list[TrackTranscript]:
    """The tracks of one job, all at the same time."""
    stage = Transcriber(room_of(engine), AudioSettings())
    heard: dict[int, TrackTranscript] = {}

    async def hear(n: int) -> None:
        heard[n] = await stage.handle(claim, tracks[n])

    async with stage.running(), anyio.create_task_group() as group:
        for n in range(len(tracks)):
            group.start_soon(hear, n)
    return [heard[n] for n in range(len(tracks))]


def room_of(engine: MockEngine) -> ModelRoom:
    return ModelRoom(engine, memory_limit=2**20, jobs=1, tracks_per_job=4)


def pause(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.int16)


@pytest.fixture(scope="session")
def quilter(media: Path) -> Samples:
    """5.86 s, of which the first and last 0.3 s are silent."""
    return resampled(sound_of(media / "leopard_en.flac"))


@pytest.fixture(scope="session")
def sonnets(media: Path) -> Samples:
    """Speech for several windows."""
    return np.tile(resampled(sound_of(media / "sonnet_p001.mp3")), 2)


async def test_words_of_two_stretches_in_one_window_lie_each_in_its_own(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted(draft((0.5, 1.0), (4.5, 5.0), (5.5, 6.0), (6.5, 7.0), (10.5, 11.0)))
    track = await spooled(tmp_path / "t", pause(20), quilter, pause(60), quilter, pause(3))
    heard = await transcribed(claim, engine, track)
    assert len(engine.asked) == 1
    # What the window holds of each reading begins 0.26 s into it and is 5.89 s long.
    starts = [word.start for segment in heard.segments for word in segment.words or ()]
    again = 20 + 5.86 + 60 + 0.26 - 5.89
    assert starts == pytest.approx([20.76, 24.76, 25.76, again + 6.5, again + 10.5], abs=0.1)
    assert [len(segment.words or ()) for segment in heard.segments] == [1, 2, 1, 1]


times = st.tuples(st.floats(-2, 32), st.floats(-1, 8)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
stretches = st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 10)), max_size=6)


@given(st.lists(times, max_size=12), stretches, st.sampled_from([0.0, 2.50034]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_times_an_engine_gives_words_are_in_order_inside_segment_and_track(
    make_job: Callable[..., Job],
    tmp_path: Path,
    quilter: Samples,
    drawn: list[tuple[float, float]],
    gaps_and_lengths: list[tuple[float, float]],
    begins: float,
) -> None:
    audio = await spooled(tmp_path / "t", quilter, pause(60), quilter, begins=begins)
    heard = await transcribed(
        Claim(make_job()), Scripted(draft(*drawn)), replace(audio, bleed=bleeds(gaps_and_lengths))
    )
    words = [word for segment in heard.segments for word in segment.words or ()]
    ends = round(heard.track.start_offset + heard.track.duration, 3)
    assert [word.word.strip() for word in words] == [str(n) for n in range(len(drawn))]
    assert all(heard.track.start_offset <= word.start <= word.end <= ends for word in words)
    assert all(earlier.end <= later.start for earlier, later in pairwise(words))
    assert not any(word.start < 10 and word.end > 60 for word in words), "a word over the pause"
    for n, segment in enumerate(heard.segments):
        assert segment.words
        assert (segment.id, segment.start, segment.end) == (n, segment.words[0].start, segment.words[-1].end)
        assert segment.text == "".join(word.word for word in segment.words)


def bleeds(gaps_and_lengths: list[tuple[float, float]]) -> tuple[Bleed, ...]:
    found, reached = [], 0.0
    for n, (gap, length) in enumerate(gaps_and_lengths):
        found.append(Bleed(stretch(reached + gap, reached + gap + length), f"{n % 2 + 1}:0", 0.5))
        reached += gap + length
    return tuple(found)


async def test_windows_follow_each_other_in_the_recording(claim: Claim, tmp_path: Path, sonnets: Samples) -> None:
    greedy = [draft((-5.0, 99.0), (-5.0, 99.0)) for _ in range(5)]
    heard = await transcribed(claim, engine := Scripted(*greedy), await spooled(tmp_path / "t", sonnets))
    assert len(engine.asked) == 5
    words = [word for segment in heard.segments for word in segment.words or ()]
    assert [word.word.strip() for word in words] == ["0", "1"] * 5
    assert all(earlier.end <= later.start for earlier, later in pairwise(words))
    assert words[-1].end <= heard.track.duration == round(len(sonnets) / SAMPLE_RATE, 3)


@pytest.mark.parametrize("first", [SILENCE, WindowError("The decoder is stuck.")], ids=["silence", "error"])
async def test_the_first_window_in_which_something_is_said_settles_the_language(
    claim: Claim, tmp_path: Path, sonnets: Samples, first: Draft | WindowError
) -> None:
    engine = Scripted(first, draft((0.0, 1.0), language="de", probability=0.75))
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", sonnets))
    assert [options.language for options in engine.asked] == [None, None, "de", "de", "de"]
    assert (heard.track.language, heard.track.language_probability) == ("de", 0.75)
    assert {segment.language for segment in heard.segments} == {"de"}


async def test_a_language_that_the_client_tells_is_not_asked_for(
    make_job: Callable[..., Job], tmp_path: Path, sonnets: Samples
) -> None:
    engine = Scripted()
    heard = await transcribed(Claim(make_job(language="fr")), engine, await spooled(tmp_path / "t", sonnets))
    assert {options.language for options in engine.asked} == {"fr"}
    assert (heard.track.language, heard.track.language_probability) == ("fr", None)


@pytest.mark.parametrize(
    ("wish", "options"),
    [
        ({}, Options(beam=5)),
        ({"quality": "fast", "prompt": "Sonnets."}, Options(beam=1, prompt="Sonnets.")),
        ({"target_language": "en"}, Options(beam=5, task="translate")),
    ],
)
async def test_what_the_client_asks_reaches_the_engine(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples, wish: dict[str, str], options: Options
) -> None:
    engine = Scripted()
    await transcribed(Claim(make_job(**wish)), engine, await spooled(tmp_path / "t", quilter))
    assert engine.asked == [options]


async def test_a_track_has_the_language_that_was_told_of_it_rather_than_that_of_the_job(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted()
    track = known(await spooled(tmp_path / "t", quilter), language="de", label="agent")
    heard = await transcribed(Claim(make_job(language="fr")), engine, track)
    assert [options.language for options in engine.asked] == ["de"]
    assert (heard.track.language, heard.track.language_probability, heard.track.label) == ("de", None, "agent")


async def test_a_silent_track_is_no_business_of_the_engine(make_job: Callable[..., Job], tmp_path: Path) -> None:
    engine = Scripted()
    heard = await transcribed(Claim(make_job(language="en")), engine, await spooled(tmp_path / "t", pause(20)))
    assert engine.asked == []
    track = heard.track
    assert (track.status, track.language, track.confidence, track.duration) == ("silent", None, None, 20.0)
    assert (heard.segments, heard.error, track.speech_seconds) == ((), None, 0.0)
    assert [notice.code for notice in heard.warnings] == ["media-damaged", "track-silent"]


async def test_a_track_of_which_the_engine_hears_nothing_is_silent_too(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    heard = await transcribed(claim, Scripted(SILENCE), await spooled(tmp_path / "t", quilter))
    assert (heard.track.status, heard.track.language, heard.segments) == ("silent", None, ())
    assert heard.track.speech_seconds == pytest.approx(5.6, abs=0.1)


async def test_a_segment_has_the_numbers_of_its_window(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    said = draft((0.0, 1.0), (1.0, 2.0))
    heard = await transcribed(claim, Scripted(said), await spooled(tmp_path / "t", quilter))
    [segment] = heard.segments
    assert (segment.text, segment.language, segment.confidence) == ("0 1", "en", 0.5)
    assert (segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio) == (-0.25, 0.125, 1.5)
    assert (heard.track.status, heard.track.confidence, heard.of) == ("transcribed", 0.5, 1)
    assert heard.warnings == (DAMAGE,)


async def test_a_window_that_fails_fails_its_track_and_what_else_was_heard_is_kept(
    claim: Claim, tmp_path: Path, sonnets: Samples
) -> None:
    engine = Scripted(draft((0.0, 1.0)), WindowError("the decoder is stuck"), draft((0.0, 1.0)))
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", sonnets))
    assert isinstance(heard.error, EngineFailed)
    assert heard.error.detail == "1 of 5 windows: the decoder is stuck."
    assert heard.track.status == "failed"
    assert heard.track.error is not None
    assert (heard.track.error["code"], heard.track.error["stage"]) == ("engine-failed", "transcriber")
    assert [(notice.code, notice.track) for notice in heard.warnings] == [
        ("media-damaged", None),
        ("track-failed", "downmix"),
    ]
    assert len(heard.segments) >= 4
    assert heard.segments[-1].start > 97


async def test_a_track_that_could_not_be_decoded_has_failed_with_that_error(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    error = MediaCorrupt("Nothing in the file's audio could be decoded.")
    heard = await transcribed(claim, Scripted(), await spooled(tmp_path / "t", quilter, error=error))
    assert (heard.error, heard.track.status) == (error, "failed")
    assert heard.warnings[-1] == Notice(code="track-failed", track="downmix", detail=error.detail)
    assert heard.track.error is not None
    assert (heard.track.error["code"], heard.track.error["stage"]) == ("media-corrupt", "demuxer")


async def test_a_track_that_fails_leaves_the_others_of_its_job_alone(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    class NoGerman(MockEngine):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            if any(item.options.language == "de" for item in batch):
                raise RuntimeError
            return super().run(batch, cancel)

    broken = await spooled(tmp_path / "0", error=MediaCorrupt("Nothing in it could be decoded."))
    audios = [broken, *[await spooled(tmp_path / f"{n}", quilter) for n in (1, 2, 3)]]
    languages = ("en", "en", "de", "en")
    tracks = [known(audio, id=f"{n}:0", language=languages[n]) for n, audio in enumerate(audios)]
    heard = await side_by_side(claim, NoGerman(), *tracks)
    assert [part.track.status for part in heard] == ["failed", "transcribed", "failed", "transcribed"]
    assert [part.error and part.error.code for part in heard] == ["media-corrupt", None, "engine-failed", None]
    told = [(notice.code, notice.track) for part in heard for notice in part.warnings if notice != DAMAGE]
    assert told == [("track-failed", "0:0"), ("track-failed", "2:0")]
    assert heard[1].segments
    assert [segment.text for segment in heard[1].segments] == [segment.text for segment in heard[3].segments]


async def test_a_track_has_a_bounded_number_of_windows_in_flight(
    make_job: Callable[..., Job], tmp_path: Path, sonnets: Samples
) -> None:
    engine = Scripted(seconds=0.15)
    await transcribed(Claim(make_job(language="en")), engine, await spooled(tmp_path / "t", sonnets))
    assert engine.most_at_once == 2


@pytest.mark.parametrize("total", [106.53, None], ids=["known length", "unknown length"])
async def test_progress_follows_the_windows_to_the_end_of_the_track(
    claim: Claim, tmp_path: Path, sonnets: Samples, total: float | None
) -> None:
    class Nosy(Scripted):
        def prepare(self, window: Window) -> Prepared:
            seen.append(claim.progress)
            return super().prepare(window)

    seen: list[Progress] = []
    claim.advance("demuxing", 1.0, audio_seconds_total=total)
    await transcribed(claim, Nosy(), await spooled(tmp_path / "t", sonnets))
    done = [progress.audio_seconds_done for progress in [*seen, claim.progress]]
    assert done == sorted(done)
    # The first window ends 14.66 s into the recording, of which 1.35 s are silent.
    assert done[1] == pytest.approx(14.66, abs=0.1)
    assert done[-1] == 106.53
    assert (claim.progress.stage, claim.progress.fraction) == ("transcribing", 0.97 if total else 0.08)


async def test_progress_is_summed_over_tracks_and_never_more_than_the_whole(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    audios = [await spooled(tmp_path / f"{n}", quilter) for n in range(3)]
    tracks = [known(audio, id=f"{n}:0") for n, audio in enumerate(audios)]
    claim.advance("demuxing", 1.0, audio_seconds_total=15.0)
    done = []
    for track in tracks:
        await transcribed(claim, Scripted(), track)
        done.append(claim.progress.audio_seconds_done)
    assert done == pytest.approx([5.855, 11.71, 15.0], abs=0.006)
    assert claim.progress.fraction == 0.97


async def test_windows_of_two_tracks_share_a_batch(claim: Claim, tmp_path: Path, sonnets: Samples) -> None:
    class Watched(MockEngine):
        """Busy with the first batch until the gate is opened."""

        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            batches.append({item.options.language for item in batch})
            gate.wait(30)
            return super().run(batch, cancel)

    batches: list[set[str | None]] = []
    gate = threading.Event()
    room = room_of(Watched(Script(max_batch=4)))
    stage = Transcriber(room, AudioSettings())
    async with stage.running(), anyio.create_task_group() as group:
        for language in ("de", "fr"):
            track = known(await spooled(tmp_path / language, sonnets), id=language, language=language)
            group.start_soon(stage.handle, claim, track)
        await until(lambda: room.statistics().ready >= 3)
        gate.set()
    assert {"de", "fr"} in batches


async def test_a_track_that_starts_late_is_that_late(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    said = draft((0.0, 1.0), (99.0, 99.5))
    heard = await transcribed(claim, Scripted(said), await spooled(tmp_path / "t", quilter, begins=2.5))
    assert (heard.track.start_offset, heard.track.duration) == (2.5, 5.855)
    assert heard.segments[0].start == pytest.approx(2.76, abs=0.1)
    assert heard.segments[-1].end <= 2.5 + 5.855


async def test_a_duplicate_is_passed_on_without_asking_the_engine(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted()
    audio = await spooled(tmp_path / "t", quilter, begins=1.5)
    track = known(audio, id="0:1", status="duplicate", duplicate_of="0:0", label="right", language="de")
    heard = await transcribed(claim, engine, track)
    assert engine.asked == []
    assert (heard.segments, heard.warnings, heard.error) == ((), (DAMAGE,), None)
    facts = heard.track
    assert (facts.status, facts.duplicate_of, facts.label, facts.language) == ("duplicate", "0:0", "right", None)
    assert (facts.start_offset, facts.duration, facts.speech_seconds) == (1.5, 5.855, 0.0)
    assert claim.progress.audio_seconds_done == pytest.approx(7.355, abs=0.006)


async def test_a_track_that_was_listened_to_is_not_listened_to_again(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted()
    audio = await spooled(tmp_path / "t", quilter)
    heard = await transcribed(claim, engine, replace(audio, speech=(stretch(1, 2), stretch(4, 5.25))))
    assert [window.seconds for window in engine.given] == [2.25]
    assert heard.track.speech_seconds == 2.25


async def test_an_engine_without_times_of_words_gives_a_segment_a_window(
    claim: Claim, tmp_path: Path, sonnets: Samples
) -> None:
    heard = await transcribed(claim, MockEngine(Script(words=False)), await spooled(tmp_path / "t", sonnets))
    assert len(heard.segments) == 5
    assert {segment.text for segment in heard.segments} == {"The quick brown fox jumps over the lazy dog."}
    assert all((segment.words, segment.confidence) == (None, None) for segment in heard.segments)
    assert all(earlier.end <= later.start for earlier, later in pairwise(heard.segments))
    # As the first window lies in the recording: speech from 0.1 s to 14.7 s.
    assert (heard.segments[0].start, heard.segments[0].end) == pytest.approx((0.1, 14.7), abs=0.2)
    assert (heard.track.status, heard.track.language, heard.track.confidence) == ("transcribed", "en", None)


@pytest.fixture
async def answered(tmp_path: Path, quilter: Samples) -> TrackAudio:
    """Own speech, and from 10 s on a reading that is the voice of track 1:0."""
    audio = await spooled(tmp_path / "answered", quilter, pause(4.14), quilter)
    bleed = Bleed(stretch(10.0, 15.86), "1:0", 0.9)
    return replace(audio, speech=(stretch(0.2, 5.6), stretch(10.2, 15.6)), bleed=(bleed,))


async def test_suppressed_bleed_is_not_heard_by_the_engine_and_is_told_of(
    make_job: Callable[..., Job], answered: TrackAudio
) -> None:
    engine = Scripted()
    heard = await transcribed(Claim(make_job(crosstalk="suppress")), engine, answered)
    assert [window.seconds for window in engine.given] == [5.4]
    assert heard.track.speech_seconds == 5.4
    assert heard.segments[-1].end < 10
    assert [segment.crosstalk for segment in heard.segments] == [None]
    detail = "Left out 1 stretch with the voice of 1:0 (5.9 s): 10.00-15.86 s."
    assert heard.warnings == (DAMAGE, Notice(code="crosstalk-suppressed", track="downmix", detail=detail))


async def test_short_bleed_in_the_midst_of_a_sentence_is_a_pause_for_the_engine(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples
) -> None:
    audio = await spooled(tmp_path / "t", quilter)
    bleed = (Bleed(stretch(2.0, 2.5), "1:0", 0.9), Bleed(stretch(4.0, 4.25), "2:0", 0.9))
    engine = Scripted()
    job = make_job(crosstalk="suppress")
    await transcribed(Claim(job), engine, replace(audio, speech=(stretch(1, 5),), bleed=bleed))
    [window] = engine.given
    expected = quilter[SAMPLE_RATE : 5 * SAMPLE_RATE].copy()
    expected[SAMPLE_RATE : round(1.5 * SAMPLE_RATE)] = 0
    expected[3 * SAMPLE_RATE : round(3.25 * SAMPLE_RATE)] = 0
    np.testing.assert_array_equal(window.samples * 32768, expected)


async def test_long_bleed_in_the_midst_of_a_sentence_costs_no_more_than_a_pause(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples
) -> None:
    audio = await spooled(tmp_path / "t", quilter)
    job, engine = make_job(crosstalk="suppress"), Scripted()
    bleed = (Bleed(stretch(2.0, 4.0), "1:0", 0.9),)
    await transcribed(Claim(job), engine, replace(audio, speech=(stretch(1, 5),), bleed=bleed))
    [window] = engine.given
    before, after = quilter[SAMPLE_RATE : 2 * SAMPLE_RATE], quilter[4 * SAMPLE_RATE : 5 * SAMPLE_RATE]
    np.testing.assert_array_equal(window.samples * 32768, np.concatenate([before, pause(0.64), after]))


async def test_a_track_on_which_only_others_are_heard_is_silent_when_they_are_suppressed(
    make_job: Callable[..., Job], answered: TrackAudio
) -> None:
    engine = Scripted()
    bleed = (Bleed(stretch(0, 16), "1:0", 0.9),)
    heard = await transcribed(Claim(make_job(crosstalk="suppress")), engine, replace(answered, bleed=bleed))
    assert engine.asked == []
    assert heard.track.status == "silent"
    assert [notice.code for notice in heard.warnings] == ["media-damaged", "crosstalk-suppressed", "track-silent"]
    assert (
        heard.warnings[-1].detail
        == "Nothing was said on this track but by voices of other tracks, which were left out."
    )


async def test_marked_bleed_is_told_of_and_no_word_of_it_is_lost(claim: Claim, answered: TrackAudio) -> None:
    """The window holds 0.2 … 5.6 s and 10.2 … 15.6 s of the track."""
    said = draft((4.0, 4.5), (4.8, 5.3), (5.4, 5.8), (6.0, 6.5))
    heard = await transcribed(claim, Scripted(said), answered)
    own, other = heard.segments
    assert (own.text, own.crosstalk) == ("0 1", None)
    assert (other.text, other.crosstalk) == ("2 3", Crosstalk(source="1:0", score=0.9))
    assert heard.warnings == (DAMAGE,)


async def test_a_sentence_is_cut_where_bleed_begins_and_ends(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    """Words half a second each, without a pause; bleed lies over most of the third and of the fourth."""
    audio = await spooled(tmp_path / "t", quilter)
    bleed = (Bleed(stretch(2.1, 2.9), "1:0", 0.8),)
    said = draft(*((n / 2, n / 2 + 0.5) for n in range(6)))
    heard = await transcribed(claim, Scripted(said), replace(audio, speech=(stretch(1, 5),), bleed=bleed))
    assert [segment.text for segment in heard.segments] == ["0 1", "2 3", "4 5"]
    assert [segment.crosstalk for segment in heard.segments] == [None, Crosstalk(source="1:0", score=0.8), None]


async def test_the_language_of_a_track_is_not_that_of_a_voice_from_another(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    """Three windows, of 20, 21 and 22 s, the first of them bleed."""

    class Polyglot(MockEngine):
        """Hears French, German and English in windows of 20, 21 and 22 s."""

        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            told.update({item.seconds: item.options.language for item in batch})
            languages = {20.0: "fr", 21.0: "de", 22.0: "en"}
            drafts = zip(batch, super().run(batch, cancel), strict=True)
            return [replace(d, language=languages[item.seconds]) for item, d in drafts if isinstance(d, Draft)]

    told: dict[float, str | None] = {}
    audio = await spooled(tmp_path / "t", *[quilter, pause(24.145)] * 3)
    speech = tuple(stretch(30 * n, 30 * n + 20 + n) for n in range(3))
    bleed = (Bleed(speech[0], "1:0", 0.9),)
    heard = await transcribed(claim, Polyglot(), replace(audio, speech=speech, bleed=bleed))
    assert told == {20: None, 21: None, 22: "de"}
    assert heard.track.language == "de"
    assert heard.segments[0].language == "fr"


async def test_a_track_that_is_mostly_bleed_has_the_language_of_what_its_own_voice_says_first(
    claim: Claim, answered: TrackAudio
) -> None:
    """The window is 0.2 … 5.6 s, most of which is bleed here, and 10.2 … 15.6 s, all of which is."""
    bleed = (Bleed(stretch(0, 4), "1:0", 0.9), *answered.bleed)
    said = draft((1.0, 2.0), (4.2, 5.0), language="de")
    heard = await transcribed(claim, Scripted(said), replace(answered, bleed=bleed))
    assert [segment.crosstalk is None for segment in heard.segments] == [False, True]
    assert (heard.track.language, heard.track.language_probability) == ("de", None)


async def test_a_track_on_which_only_others_are_heard_has_no_language_of_its_own(
    claim: Claim, answered: TrackAudio
) -> None:
    bleed = (Bleed(stretch(0, 16), "1:0", 0.9),)
    heard = await transcribed(claim, Scripted(draft((1.0, 2.0), language="de")), replace(answered, bleed=bleed))
    assert (heard.track.status, heard.track.language) == ("transcribed", None)
    assert [segment.language for segment in heard.segments] == ["de"]
