"""The transcriber: every word of a track at its time in the media, and no error of one track on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

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
from pipeline.transcript import Notice, Track
from stages.engines import CancelFlag, Draft, DraftWord, Options, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from stages.engines.room import ModelRoom
from stages.messages import TrackAudio, TrackTranscript
from stages.spool import SAMPLE_RATE, Spool
from stages.transcriber import Transcriber
from tests.stages.making import resampled, sound_of

Samples = NDArray[np.int16]
DAMAGE = Notice(code="media-damaged", detail="A piece is missing.")


class Scripted(MockEngine):
    """Gives these answers in the order in which windows are prepared, and then those of the mock engine."""

    def __init__(self, *answers: Draft | WindowError, seconds: float = 0.0) -> None:
        super().__init__(Script(max_batch=1, window_seconds=seconds))
        self._answers = iter(answers)
        self._scripted: list[tuple[Prepared, Draft | WindowError]] = []
        self.asked: list[Options] = []
        self.done = self.most_at_once = 0

    def prepare(self, window: Window) -> Prepared:
        item = super().prepare(window)
        self.asked.append(window.options)
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


async def spooled(path: Path, *parts: Samples, error: JobError | None = None) -> TrackAudio:
    def write() -> None:
        for part in parts:
            spool.append(part)
        spool.finish(error, (DAMAGE,))

    spool = Spool(path)
    await to_thread.run_sync(write)
    return TrackAudio(Track(id="downmix", index=0, stream=None, channel=None), spool, of=1)


async def transcribed(claim: Claim, engine: MockEngine, track: TrackAudio) -> TrackTranscript:
    room = ModelRoom(engine, memory_limit=2**20, jobs=1, tracks_per_job=1)
    stage = Transcriber(room, AudioSettings())
    async with stage.running():
        return await stage.handle(claim, track)


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


@given(st.lists(times, max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_times_an_engine_gives_words_are_in_order_inside_segment_and_recording(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples, drawn: list[tuple[float, float]]
) -> None:
    track = await spooled(tmp_path / "t", quilter, pause(60), quilter)
    heard = await transcribed(Claim(make_job()), Scripted(draft(*drawn)), track)
    words = [word for segment in heard.segments for word in segment.words or ()]
    assert [word.word.strip() for word in words] == [str(n) for n in range(len(drawn))]
    assert all(0 <= word.start <= word.end <= heard.track.duration for word in words)
    assert all(earlier.end <= later.start for earlier, later in pairwise(words))
    assert not any(word.start < 10 and word.end > 60 for word in words), "a word over the pause"
    for n, segment in enumerate(heard.segments):
        assert segment.words
        assert (segment.id, segment.start, segment.end) == (n, segment.words[0].start, segment.words[-1].end)
        assert segment.text == "".join(word.word for word in segment.words)


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
