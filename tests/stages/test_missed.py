"""What an engine passes over in a window is asked for again, piece by piece; a laugh without words is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.claim import Claim
from stages.engines import Draft, DraftWord, WindowError
from stages.missed import in_parts, missed
from stages.spool import SAMPLE_RATE, Region
from stages.voice import Floats
from stages.windows import SpeechWindow, laid_out
from tests.stages.transcribing import Scripted, draft, pause, spooled, steady, transcribed

Samples = NDArray[np.int16]


def window(*seconds: float) -> SpeechWindow:
    """Pieces of these lengths, a minute from one to the next."""
    starts = (60 * n * SAMPLE_RATE for n in range(len(seconds)))
    regions = tuple(
        Region(start, start + round(length * SAMPLE_RATE)) for start, length in zip(starts, seconds, strict=True)
    )
    return SpeechWindow(regions, laid_out(regions))


def words(*counts_and_spans: tuple[int, float, float]) -> Draft:
    """So many words, each as long as the others, between these times of the window."""
    edges = [np.linspace(start, end, count + 1) for count, start, end in counts_and_spans]
    spans = [pair for edge in edges for pair in zip(edge.tolist(), edge[1:].tolist(), strict=False)]
    told = tuple(DraftWord(f" {n}", start, end, 0.9) for n, (start, end) in enumerate(spans))
    return Draft("".join(word.word for word in told).strip(), told, "en", None, -0.2, 0.0, 1.2)


@pytest.mark.parametrize(
    ("pieces", "told", "passed_over"),
    [
        pytest.param((4, 6), words((10, 0.3, 3.7), (15, 4.3, 9.7)), False, id="all told"),
        pytest.param((4, 6), words((16, 4.3, 9.7)), True, id="nothing of the first"),
        pytest.param((4, 6), words((1, 0.3, 3.7), (16, 4.3, 9.7)), True, id="the next one's first word in the first"),
        pytest.param((6, 4), words((16, 0.3, 5.7)), True, id="nothing of the last"),
        pytest.param((1.2, 6), words((15, 1.5, 6.9)), False, id="a laugh"),
        pytest.param((4, 6), words((3, 4.3, 9.7)), False, id="hardly a word at all"),
        pytest.param((20,), words((30, 0.3, 12.0), (15, 15.5, 19.6)), False, id="a pause of one piece"),
        pytest.param((20,), words((5, 0.3, 3.7)), True, id="the second half of one piece"),
        pytest.param((20,), words((30, 6.0, 19.7)), True, id="the beginning of one piece"),
        pytest.param((3, 20), words((6, 0.3, 2.7), (15, 3.3, 7.5), (20, 15, 22.5)), True, id="the middle of a piece"),
        pytest.param((4, 6), replace(words((10, 0.3, 3.7), (15, 4.3, 9.7)), cut=True), True, id="what a limit cut"),
        pytest.param((20,), Draft("Said.", (), "en", None, -0.2, 0.0, 1.2), False, id="no times of words"),
        pytest.param((4, 6), words(), False, id="silence"),
    ],
)
def test_a_piece_with_few_words_for_its_length_was_passed_over(
    pieces: tuple[float, ...], told: Draft, passed_over: bool
) -> None:
    assert missed(window(*pieces), told) is passed_over


def test_the_pieces_of_a_window_lie_where_they_lay_in_it() -> None:
    parts = in_parts(window(4, 6), words(), hum(10))
    assert [part.span(1.0, 2.0) for part in parts] == [(1.0, 2.0), (61.0, 62.0)]


@pytest.mark.parametrize(
    ("told", "pauses", "parted_at"),
    [
        pytest.param(words((10, 0.3, 8.0)), (4.0, 8.9, 15.0), 8.9, id="after the last word"),
        pytest.param(words((10, 12.0, 19.7)), (4.0, 11.2, 15.0), 11.2, id="before the first word"),
        pytest.param(words((10, 0.3, 5.0), (5, 17.0, 19.7)), (3.0, 5.7, 15.0), 5.7, id="between words"),
        pytest.param(words((40, 0.3, 19.7)), (3.0, 9.0, 15.0), 9.0, id="near the middle of what a limit cut"),
    ],
)
def test_one_piece_is_parted_in_a_pause_beside_what_was_told(
    told: Draft, pauses: tuple[float, ...], parted_at: float
) -> None:
    first, second = in_parts(window(20), told, hum(20, *pauses))
    assert (first.begins, second.passed) == (0.0, 20.0)
    assert first.passed == second.begins == pytest.approx(parted_at, abs=0.06)


def hum(seconds: float, *pauses: float) -> Floats:
    """A tone with pauses of 0.2 s around these times."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    silent = np.any([np.abs(times - pause) < 0.1 for pause in (*pauses, -1)], axis=0)
    return np.where(silent, 0, np.sin(times * 1000)).astype(np.float32)


FIRST, SECOND = words((10, 0.4, 5.4)), words((12, 0.4, 5.4))


@pytest.mark.parametrize(
    ("whole", "parts", "told"),
    [
        pytest.param(
            replace(words((12, 6.3, 11.3)), language_probability=0.7), (FIRST, SECOND), 22, id="more words apart"
        ),
        pytest.param(words((12, 6.3, 11.3)), (draft(), steady(5)), 12, id="fewer words apart"),
    ],
)
async def test_what_was_passed_over_is_heard_piece_by_piece(
    claim: Claim, tmp_path: Path, quilter: Samples, whole: Draft, parts: tuple[Draft, Draft], told: int
) -> None:
    engine = Scripted(whole, *parts)
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", quilter, pause(60), quilter, pause(3)))
    said = [word for segment in heard.segments for word in segment.words or ()]
    assert len(said) == told
    assert [options.language for options in engine.asked] == [None, "en", "en"]
    assert [word.start for word in said] == sorted(word.start for word in said)
    assert any(word.start < 6 for word in said) is (told == 22)
    assert heard.track.language_probability == whole.language_probability


async def test_a_part_that_fails_leaves_what_the_whole_told(claim: Claim, tmp_path: Path, quilter: Samples) -> None:
    engine = Scripted(words((12, 6.3, 11.3)), FIRST, WindowError("the decoder is stuck"))
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", quilter, pause(60), quilter, pause(3)))
    assert heard.error is None
    assert len([word for segment in heard.segments for word in segment.words or ()]) == 12
