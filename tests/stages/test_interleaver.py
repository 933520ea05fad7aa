"""The interleaver joins what the tracks of one job came to, however they arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, JobError, MediaCorrupt
from pipeline.jobs import Job, Progress
from pipeline.transcript import EngineInfo, Notice, Segment, Track, Transcript, Word
from stages.answers import Answer, Answers
from stages.engines import Draft, DraftWord
from stages.interleaver import Interleaver
from stages.messages import TrackAudio, TrackTranscript
from stages.readings import Read
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.windows import SpeechWindow, laid_out
from tests.stages.talking import words_by_track

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
    known = {"duration": 10.0, "status": status, **facts}
    track = Track(id=name, index=index, stream=1, channel=index, **known)
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


async def test_those_who_start_together_are_told_in_the_order_of_their_tracks(claim: Claim) -> None:
    transcript = await joined(claim, part(10, (0.0, "Two.")), part(2, (0.0, "One.")))
    assert [segment.track for segment in transcript.segments] == ["1:2", "1:10"]


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
    with pytest.raises(MediaCorrupt, match="the first") as raised:
        await joined(claim, *(parts[n] for n in order))
    assert raised.value.track == "1:0"


async def test_a_track_that_repeats_another_saves_no_job_whose_own_tracks_have_all_failed(claim: Claim) -> None:
    copy = part(0, duplicate_of="1:1")
    with pytest.raises(MediaCorrupt, match="the first"):
        await joined(claim, copy, part(1, error=MediaCorrupt("the first")))


async def test_a_track_that_repeats_another_is_listed_and_not_heard(claim: Claim) -> None:
    copy = part(1, duplicate_of="1:0", status="duplicate")
    transcript = await joined(claim, copy, part(0, (0.0, "One."), label="Ann"))
    assert (transcript.text, transcript.tracks[1]) == ("One.", copy.track)


async def test_the_transcript_lasts_as_long_as_its_last_track(claim: Claim) -> None:
    late = part(1, (8.1, "Late."), start_offset=8.1, duration=1.0)  # 9.1, which a sum of floats does not reach
    assert (await joined(claim, part(0, duration=9.0), late)).duration == 9.1


async def test_sentences_are_joined_across_tracks_and_overlap_is_listed(make_job: Callable[..., Job]) -> None:
    parts = (
        part(0, (0.0, "I went to"), (2.5, "the market."), label="Ann"),
        part(1, (1.2, "mm-hm"), label="Bob"),
    )
    transcript = await joined(Claim(make_job(processing_mode="multitrack", word_timestamps=True)), *parts)
    assert transcript.text == "Ann: I went to the market.\nBob: mm-hm"
    assert [segment.overlaps for segment in transcript.segments] == [(1,), (0,)]


@dataclass(frozen=True, slots=True)
class Voice:
    """A track as it is drawn: where its sound begins, where it has speech, and what the engine makes of that."""

    begins: float
    speech: tuple[float, float]
    words: list[tuple[str, float, float]]

    def draft(self, language: str) -> Draft:
        words = tuple(DraftWord(text, start, start + length, 0.5) for text, start, length in self.words)
        text = "".join(word.word for word in words).strip()
        return Draft(text, words, language, 0.9, -0.25, None, 1.5)

    async def heard(self, scratch: Path, index: int, language: str, of: int) -> TrackTranscript:
        """The draft as what was heard in the track's one window."""

        def write() -> None:
            spool.mix(begins, np.zeros(20 * SAMPLE_RATE, np.int16))
            spool.finish()

        spool, begins = Spool(scratch / f"{uuid4()}"), round(self.begins * SAMPLE_RATE)
        await to_thread.run_sync(write)
        start, length = (round(seconds * SAMPLE_RATE) for seconds in self.speech)
        region = Region(begins + start, begins + start + length)
        track = Track(id=f"0:{index}", index=index, stream=0, channel=index, language=language)
        window = SpeechWindow((region,), laid_out((region,)))
        answers = Answers(TrackAudio(track, spool, of, speech=(region,)), language, windows=[window])
        answers.given[0] = [Answer(window, Read(self.draft(language)))]
        return await answers.transcript()


drawn_words = st.tuples(st.sampled_from([" and", " so.", " why?", "好", " "]), st.floats(-2, 25), st.floats(-1, 4))
voices = st.builds(
    Voice,
    begins=st.floats(0, 5),
    speech=st.tuples(st.floats(0, 10), st.floats(0.5, 10)),
    words=st.lists(drawn_words, max_size=12),
)
TONGUES = ("en", "de", "fr", "ja")


@given(st.lists(voices, min_size=1, max_size=len(TONGUES)), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_an_engine_says_stays_on_its_track_in_order_and_within_the_recording(
    make_job: Callable[..., Job], tmp_path: Path, drawn: list[Voice], chance: Random
) -> None:
    said = dict(zip(TONGUES, drawn, strict=False))
    claim = Claim(make_job(processing_mode="multitrack", word_timestamps=True), scratch=tmp_path)
    parts = [await voice.heard(tmp_path, n, language, len(said)) for n, (language, voice) in enumerate(said.items())]
    chance.shuffle(parts)
    transcript = await joined(claim, *parts)
    assert [track.language for track in transcript.tracks if track.language] == [
        language for language, voice in said.items() if voice.words
    ]
    assert {track: [word.word for word in words] for track, words in words_by_track(transcript.segments).items()} == {
        f"0:{n}": [text.lstrip() for text, _, _ in voice.words] for n, voice in enumerate(drawn) if voice.words
    }
    reached = dict.fromkeys((track.id for track in transcript.tracks), 0.0)
    for segment in transcript.segments:
        times = [time for word in segment.words or () for time in (word.start, word.end)]
        times = [reached[segment.track], segment.start, *times, segment.end, transcript.duration]
        assert times == sorted(times)
        reached[segment.track] = segment.end


async def test_where_the_engine_gives_no_times_of_words_each_track_says_so(claim: Claim) -> None:
    def wordless(heard: TrackTranscript) -> TrackTranscript:
        return replace(heard, segments=tuple(one.model_copy(update={"words": None}) for one in heard.segments))

    transcript = await joined(claim, *map(wordless, (HERS, HIS, NOBODYS)))
    assert [segment.text for segment in transcript.segments] == ["Hello?", "Guten Tag.", "Fine.", "Danke."]
    told = [(notice.code, notice.track) for notice in transcript.warnings]
    assert told == [("no-word-times", "1:0"), ("no-word-times", "1:1"), ("track-silent", "1:2")]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("Ann", "Bob"), ("Ann", "Bob")),
        (("Ann", None), ("Ann", "1:1")),
        (("Ann", "Ann"), ("Ann (1:0)", "Ann (1:1)")),
        (("Ann", "Ann\n "), ("Ann (1:0)", "Ann (1:1)")),
        (("1:1", None), ("1:1 (1:0)", "1:1")),
        (("1:1", "Bob"), ("1:1 (1:0)", "Bob (1:1)")),
        (("1:2", "Bob"), ("1:2 (1:0)", "Bob (1:1)")),
        (("1:0", "\t"), ("1:0", "1:1")),
        (("Ann\r\nBob: No.", "Bob"), ("Ann Bob: No.", "Bob")),
    ],
)
async def test_every_speaker_has_a_name_of_one_line_that_is_nobody_else_s(
    claim: Claim, labels: tuple[str | None, ...], names: tuple[str, ...]
) -> None:
    parts = [part(n, (float(n), "Hm.\nHm."), of=3, label=label) for n, label in enumerate(labels)]
    transcript = await joined(claim, *parts, part(2, of=3))
    assert transcript.text == "\n".join(f"{name}: Hm. Hm." for name in names)


@pytest.mark.parametrize(
    ("label", "title", "name"),
    [
        (None, "Lapel\n mic", "Lapel mic"),
        ("Ann", "Lapel mic", "Ann"),
        (" ", "Lapel mic", "Lapel mic"),
        (None, " ", "1:0"),
        (None, "Bob", "Bob (1:0)"),
        (None, "1:1", "1:1 (1:0)"),
        (None, "\x1b]0;Lapel\x07 mic", "]0;Lapel mic"),
        (None, "x" * 1000, "x" * 128),
        ("A\u202enn\u2066", "", "Ann"),
        ("A\u00adn\ufeffn", "", "Ann"),
        ("\u2066\u200d ", "Lapel mic", "Lapel mic"),
        ("\U0001f469\u200d\U0001f680", "", "\U0001f469\u200d\U0001f680"),
        ("B\u200bob", "", "Bob (1:0)"),
    ],
)
async def test_a_track_is_called_by_its_label_or_else_its_title_as_far_as_they_can_be_seen(
    claim: Claim, label: str | None, title: str, name: str
) -> None:
    hers = part(0, (0.0, "Hm."), label=label, metadata={"title": title})
    transcript = await joined(claim, hers, part(1, (5.0, "Hm."), label="Bob"))
    assert transcript.text.partition(": Hm.")[0] == name
    assert transcript.tracks[0].label == label


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
