"""The language of a track: told by the client, or settled by what its own voice says first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job
from stages.engines import CancelFlag, Draft, WindowError
from stages.engines.mock import MockEngine, Prepared
from stages.messages import Bleed, TrackAudio
from tests.stages.transcribing import (
    SILENCE,
    Samples,
    Scripted,
    draft,
    known,
    pause,
    spooled,
    steady,
    stretch,
    transcribed,
)


@pytest.mark.parametrize("first", [SILENCE, WindowError("The decoder is stuck.")], ids=["silence", "error"])
async def test_the_first_window_in_which_something_is_said_settles_the_language(
    claim: Claim, tmp_path: Path, sonnets: Samples, first: Draft | WindowError
) -> None:
    engine = Scripted(first, steady(30, language="de", probability=0.75))
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


async def test_a_track_has_the_language_that_was_told_of_it_rather_than_that_of_the_job(
    make_job: Callable[..., Job], tmp_path: Path, quilter: Samples
) -> None:
    engine = Scripted()
    track = known(await spooled(tmp_path / "t", quilter), language="de", label="agent")
    heard = await transcribed(Claim(make_job(language="fr")), engine, track)
    assert [options.language for options in engine.asked] == ["de"]
    assert (heard.track.language, heard.track.language_probability, heard.track.label) == ("de", None, "agent")


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
    said = draft((1.0, 2.0), (4.2, 5.0), (8.0, 9.0), language="de")
    heard = await transcribed(claim, Scripted(said), replace(answered, bleed=bleed))
    assert [segment.crosstalk is None for segment in heard.segments] == [False, True, False]
    assert (heard.track.language, heard.track.language_probability) == ("de", None)


async def test_a_track_on_which_only_others_are_heard_has_no_language_of_its_own(
    claim: Claim, answered: TrackAudio
) -> None:
    bleed = (Bleed(stretch(0, 16), "1:0", 0.9),)
    heard = await transcribed(claim, Scripted(steady(10, language="de")), replace(answered, bleed=bleed))
    assert (heard.track.status, heard.track.language) == ("transcribed", None)
    assert {segment.language for segment in heard.segments} == {"de"}
