"""The interleaver joins what the tracks of one job came to, however they arrive."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, JobError, MediaCorrupt
from pipeline.jobs import Job, Progress
from pipeline.transcript import EngineInfo, Notice, Segment, Track, Transcript, Word
from stages.interleaver import Interleaver
from stages.messages import TrackTranscript

ENGINE = EngineInfo(backend="mock", model="mock", device="cpu", compute_type="none", version="1")


def said(track: str, n: int, start: float, text: str) -> Segment:
    return Segment(
        id=n,
        track=track,
        start=start,
        end=start + 1.0,
        text=text,
        language="en",
        confidence=0.9,
        avg_logprob=-0.1,
        no_speech_prob=0.0,
        compression_ratio=1.0,
        words=(Word(word=text, start=start, end=start + 1.0, confidence=0.9),),
    )


def part(
    index: int, *lines: tuple[float, str], of: int = 2, error: JobError | None = None, **facts: Any
) -> TrackTranscript:
    name = f"1:{index}"
    status = "failed" if error else "transcribed" if lines else "silent"
    track = Track(id=name, index=index, stream=1, channel=index, status=status, **{"duration": 10.0, **facts})
    segments = tuple(said(name, n, start, text) for n, (start, text) in enumerate(lines))
    notice = Notice(code=f"track-{status}", track=name, detail="")
    return TrackTranscript(track, segments, () if status == "transcribed" else (notice,), of, error)


async def joined(claim: Claim, *parts: TrackTranscript) -> Transcript:
    stage = Interleaver(ENGINE)
    *nothing, transcript = [await stage.handle(claim, one) for one in parts]
    assert nothing == [None] * (len(parts) - 1)
    assert transcript is not None
    return transcript


HERS = part(0, (0.0, "Hello?"), (4.0, "Fine."), label="Ann", duration=9.0, speech_seconds=2.0, language="en", of=3)
HIS = part(1, (2.0, "Guten Tag."), (4.0, "Danke."), speech_seconds=5.0, language="de", of=3)
NOBODYS = part(2, duration=12.0, of=3)


@pytest.mark.parametrize("parts", [*permutations([HERS, HIS, NOBODYS])])
async def test_the_transcript_does_not_depend_on_the_order_in_which_tracks_are_done(
    claim: Claim, parts: tuple[TrackTranscript, ...]
) -> None:
    transcript = await joined(claim, *parts)
    assert [(s.id, s.track, s.text) for s in transcript.segments] == [
        (0, "1:0", "Hello?"),
        (1, "1:1", "Guten Tag."),
        (2, "1:0", "Fine."),
        (3, "1:1", "Danke."),
    ]
    assert transcript.text == "Ann: Hello?\n1:1: Guten Tag.\nAnn: Fine.\n1:1: Danke."
    assert transcript.tracks == (HERS.track, HIS.track, NOBODYS.track)
    assert transcript.warnings == NOBODYS.warnings
    assert (transcript.duration, transcript.language) == (12.0, "de")
    assert (transcript.processing_mode, transcript.engine) == ("downmix", ENGINE)


async def test_a_speaker_who_is_alone_is_not_named(claim: Claim) -> None:
    assert (await joined(claim, part(0, (0.0, "One."), (2.0, "Two.")), part(1))).text == "One. Two."


async def test_where_nobody_speaks_the_transcript_is_empty(claim: Claim) -> None:
    transcript = await joined(claim, part(0, of=1))
    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())


@pytest.mark.parametrize("asked", [True, False])
async def test_words_are_there_when_they_were_asked_for(make_job: Callable[..., Job], asked: bool) -> None:
    [segment] = (await joined(Claim(make_job(word_timestamps=asked)), part(0, (0.0, "One."), of=1))).segments
    assert [word.word for word in segment.words or ()] == (["One."] if asked else [])


async def test_a_failed_track_is_told_of_and_what_was_heard_of_it_is_kept(claim: Claim) -> None:
    broken = part(0, (0.0, "Half of it."), of=3, error=EngineFailed("1 of 2 windows"))
    transcript = await joined(claim, broken, part(1, (1.0, "Two."), of=3), part(2, (2.0, "Three."), of=3))
    assert transcript.text == "1:0: Half of it.\n1:1: Two.\n1:2: Three."
    assert transcript.warnings == broken.warnings
    assert transcript.tracks[0].status == "failed"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_job_fails_when_all_its_tracks_have_with_the_error_of_the_first(
    claim: Claim, order: tuple[int, ...]
) -> None:
    parts = [part(0, error=MediaCorrupt("the first")), part(1, error=EngineFailed("the second"))]
    with pytest.raises(MediaCorrupt, match="the first"):
        await joined(claim, *(parts[n] for n in order))


async def test_jobs_at_once_do_not_mix(make_job: Callable[..., Job]) -> None:
    stage, one, other = Interleaver(ENGINE), Claim(make_job()), Claim(make_job())
    assert await stage.handle(one, part(0, (0.0, "One."))) is None
    assert await stage.handle(other, part(0, (0.0, "Other."))) is None
    last = await stage.handle(one, part(1))
    assert last is not None
    assert last.text == "One."


async def test_progress_tells_how_many_tracks_are_done(claim: Claim) -> None:
    claim.progress = Progress(stage="transcribing", fraction=0.5)
    stage = Interleaver(ENGINE)
    await stage.handle(claim, part(0))
    progress = claim.progress
    assert (progress.stage, progress.tracks_done, progress.tracks_total) == ("transcribing", 1, 2)
    await stage.handle(claim, part(1))
    assert (claim.progress.stage, claim.progress.tracks_done) == ("interleaving", 2)
    assert 0.5 == progress.fraction < claim.progress.fraction
