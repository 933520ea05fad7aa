"""What a client's word for quality comes to: other readings, text from before, and warnings of what is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job
from stages.engines import Draft, WindowError
from tests.stages.transcribing import DAMAGE, SILENCE, Samples, Scripted, draft, pause, spooled, steady, transcribed

DOUBTED = replace(steady(30), avg_logprob=-1.5)
MADE_UP = draft(*[(1.0, 2.0)] * 3, *[(3.0, 3.0)] * 5)
INTO_SILENCE = replace(SILENCE, avg_logprob=-1.2, no_speech_prob=0.9)
Make = Callable[..., Job]


def saying(text: str) -> Draft:
    return replace(steady(30), text=text)


async def test_a_window_in_doubt_is_read_again_and_its_neighbours_are_not(
    claim: Claim, tmp_path: Path, sonnets: Samples
) -> None:
    better = replace(steady(30), avg_logprob=-0.5)
    engine = Scripted(steady(30), DOUBTED, *[steady(30)] * 3, better)
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", sonnets))
    assert sorted(options.temperature for options in engine.asked) == [0.0] * 5 + [0.4]
    assert {segment.avg_logprob for segment in heard.segments} == {-0.25, -0.5}
    assert heard.warnings == (DAMAGE,)


async def test_fast_takes_what_it_hears_first(make_job: Make, tmp_path: Path, quilter: Samples) -> None:
    engine = Scripted(DOUBTED)
    heard = await transcribed(Claim(make_job(quality="fast")), engine, await spooled(tmp_path / "t", quilter))
    assert len(engine.asked) == 1
    assert {segment.avg_logprob for segment in heard.segments} == {-1.5}


async def test_accurate_gives_each_window_the_text_before_it_and_waits_for_it(
    make_job: Make, tmp_path: Path, sonnets: Samples
) -> None:
    texts = ["One.", "Two.", "x" * 600, "y" * 600, "Five."]
    engine = Scripted(*map(saying, texts))
    await transcribed(Claim(make_job(quality="accurate")), engine, await spooled(tmp_path / "t", sonnets))
    assert engine.most_at_once == 1
    before = [options.before for options in engine.asked]
    assert before[:4] == [None, "One.", "One. Two.", f"One. Two. {texts[2]}"]
    assert before[4] == f"{texts[2]} {texts[3]}"[-1000:]


@pytest.mark.parametrize(
    "doubtful",
    [
        pytest.param([DOUBTED, saying("Again.")], id="read again"),
        pytest.param([INTO_SILENCE], id="dropped"),
        pytest.param([WindowError("The decoder is stuck.")], id="failed"),
    ],
)
async def test_text_from_before_a_doubtful_window_is_forgotten(
    make_job: Make, tmp_path: Path, sonnets: Samples, doubtful: list[Draft | WindowError]
) -> None:
    engine = Scripted(saying("One."), *doubtful, saying("Three."), saying("Four."))
    await transcribed(Claim(make_job(quality="accurate")), engine, await spooled(tmp_path / "t", sonnets))
    first, second, *again, third, fourth, fifth = (options.before for options in engine.asked)
    assert (first, second, third) == (None, "One.", None)
    assert again == [None] * (len(doubtful) - 1)
    assert (fourth, fifth) == ("Three.", "Three. Four.")


async def test_what_was_made_up_is_left_out_with_one_warning_that_tells_where(
    make_job: Make, tmp_path: Path, sonnets: Samples
) -> None:
    engine = Scripted(steady(30), INTO_SILENCE, INTO_SILENCE)
    heard = await transcribed(Claim(make_job(quality="fast")), engine, await spooled(tmp_path / "t", sonnets))
    assert len(engine.asked) == 5
    [notice] = (notice for notice in heard.warnings if notice.code == "hallucination-dropped")
    assert notice.track == "downmix"
    assert "2 passages, 1" in notice.detail
    assert heard.track.status == "transcribed"
    assert not any(15 < segment.start < 50 for segment in heard.segments)


async def test_a_track_of_which_all_was_made_up_is_silent_and_says_why(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted(*[MADE_UP] * 9)
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", quilter))
    assert [options.temperature for options in engine.asked] == [0.0, 0.4, 0.8] * 3  # the window, and its halves
    assert (heard.track.status, heard.track.language, heard.segments) == ("silent", None, ())
    assert [notice.code for notice in heard.warnings] == ["media-damaged", "hallucination-dropped", "track-silent"]


async def test_what_a_limit_cut_is_heard_in_halves(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    cut = replace(steady(3), cut=True)
    engine = Scripted(cut, steady(2), steady(2))
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", quilter, pause(3)))
    assert [options.language for options in engine.asked] == [None, "en", "en"]
    assert sum(window.seconds for window in engine.given[1:]) == pytest.approx(engine.given[0].seconds)
    assert sum(len(segment.words or ()) for segment in heard.segments) == 4
    assert heard.warnings == (DAMAGE,)
    assert heard.track.language_probability == 0.9


async def test_what_stays_cut_is_told_with_a_warning(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    cut = replace(steady(5), cut=True)
    engine = Scripted(cut, SILENCE, SILENCE)
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", quilter))
    assert heard.segments
    [notice] = (notice for notice in heard.warnings if notice.code == "text-cut")
    assert (notice.track, "1 passage, 0." in notice.detail) == ("downmix", True)
