"""The transcriber: every word of a track at its time in the media, and the facts of the track beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.claim import Claim
from pipeline.jobs import Job, Progress
from stages.engines import CancelFlag, Draft, Options, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from stages.messages import Bleed
from stages.readings import is_made_up
from stages.spool import SAMPLE_RATE
from stages.voice import floats
from tests.stages.asking import ACME
from tests.stages.transcribing import (
    DAMAGE,
    SILENCE,
    Samples,
    Scripted,
    draft,
    known,
    pause,
    room_of,
    spooled,
    stretch,
    transcribed,
    transcriber,
)
from tests.stages.waiting import until


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
    assume(not is_made_up(draft(*drawn)))
    audio = await spooled(tmp_path / "t", quilter, pause(60), quilter, begins=begins)
    heard = await transcribed(
        Claim(make_job()),
        Scripted(draft(*drawn), SILENCE, SILENCE),  # heard in pieces, nothing more is told
        replace(audio, bleed=bleeds(gaps_and_lengths)),
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


@pytest.mark.parametrize(
    ("wish", "options"),
    [
        ({}, Options(beam=5)),
        ({"quality": "accurate"}, Options(beam=5)),
        ({"quality": "fast", "prompt": "Sonnets."}, Options(beam=1, prompt="Sonnets.", short=True)),
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
    stage = transcriber(room)
    async with stage.running(), anyio.create_task_group() as group:
        group.start_soon(room.ask, Window(floats(pause(1)), Options(language="en")), ACME)
        await until(lambda: bool(batches))
        for language in ("de", "fr"):
            track = known(await spooled(tmp_path / language, sonnets), id=language, language=language)
            two_windows = replace(track, speech=(stretch(0, 20), stretch(30, 50)))
            group.start_soon(stage.handle, claim, two_windows)
        await until(lambda: room.statistics().ready == 4)
        gate.set()
    assert batches[:2] == [{"en"}, {"de", "fr"}]


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
    assert claim.progress.audio_seconds_done == 0  # nor are they in the total


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
    # e to the power of its avg_logprob of −0.1
    assert all((segment.words, segment.confidence) == (None, 0.905) for segment in heard.segments)
    assert all(earlier.end <= later.start for earlier, later in pairwise(heard.segments))
    # As the first window lies in the recording: speech from 0.1 s to 14.7 s.
    assert (heard.segments[0].start, heard.segments[0].end) == pytest.approx((0.1, 14.7), abs=0.2)
    assert (heard.track.status, heard.track.language, heard.track.confidence) == ("transcribed", "en", 0.905)
