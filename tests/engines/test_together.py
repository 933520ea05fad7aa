"""Jobs that run together have the transcripts that each has alone, through the whole chain, with each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import EngineSettings
from stages.engines import Engine, load
from tests.stages.listening import Heard, Order, listen, order

pytestmark = pytest.mark.weights

MISLEADING = "Thank you. " * 40
"""With this before it *base* hears windows of the sonnets as thanks over and over, and has to read them again; only in
whisper.cpp it does not."""

TO_THREE_DECIMALS = 0.001 + 1e-9  # as they are told: rounded, where they lie near an edge, to one side or the other


@pytest.fixture(scope="module", params=["base", "base_pt", "base_ggml"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    given = request.getfixturevalue(request.param)
    if not isinstance(given, Path):
        yield given
        return
    backend = {"base_pt": "openai_whisper", "base_ggml": "whisper_cpp"}[request.param]
    engine = load(EngineSettings.model_validate({"backend": backend, "model": str(given), "device": "cpu"}))
    yield engine
    engine.close()


def test_two_jobs_together_have_the_transcripts_of_each_alone(engine: Engine, media: Path) -> None:
    assert_alike_together(
        engine,
        order(media / "sonnet_clip.mp3", prompt=MISLEADING, language="en"),
        order(media / "sonnet_clip.ogg", quality="accurate", language="en"),
    )


@pytest.mark.full
def test_so_have_two_long_ones_in_languages_that_are_detected(engine: Engine, media: Path) -> None:
    assert_alike_together(
        engine,
        order(media / "sonnet_p001.mp3", prompt=MISLEADING, quality="balanced"),
        order(media / "sonnet_p002.mp3", quality="accurate"),
    )


def assert_alike_together(engine: Engine, *orders: Order) -> None:
    alone = [heard_alone(engine, one) for one in orders]
    together = listen(engine, *orders)
    assert all(heard.transcript.text and "hank you" not in heard.transcript.text for heard in alone)
    for heard, other in zip(together, alone, strict=True):
        assert words_and_times(heard) == words_and_times(other)
        assert numbers(heard) == pytest.approx(numbers(other), abs=TO_THREE_DECIMALS)


def heard_alone(engine: Engine, one: Order) -> Heard:
    [heard] = listen(engine, one)
    return heard


def words_and_times(heard: Heard) -> list[Any]:
    """All that a transcript tells that is exact."""
    segments = heard.transcript.segments
    said = [(segment.track, segment.start, segment.end, segment.text, segment.language) for segment in segments]
    words = [(word.word, word.start, word.end) for segment in segments for word in segment.words or ()]
    return [heard.transcript.warnings, heard.statuses(), said, words]


def numbers(heard: Heard) -> list[float | None]:
    """All that a transcript tells that is a sum of many small parts."""
    told: list[float | None] = []
    for track in heard.transcript.tracks:
        told += [track.confidence, track.language_probability]
    for segment in heard.transcript.segments:
        told += [segment.confidence, segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio]
        told += [word.confidence for word in segment.words or ()]
    return told
