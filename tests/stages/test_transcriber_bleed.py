"""Another track's voice on a track: left out before the engine is asked, or marked in what it hears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.claim import Claim
from pipeline.jobs import Job
from pipeline.transcript import Crosstalk, Notice
from stages.messages import Bleed, TrackAudio
from stages.spool import SAMPLE_RATE
from tests.stages.transcribing import (
    DAMAGE,
    Samples,
    Scripted,
    draft,
    pause,
    spooled,
    stretch,
    transcribed,
)


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
