"""A reading that fails its checks is followed by others, and the best of them is kept; what was made up never is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from stages.engines import Draft, DraftWord, Options, WindowError
from stages.readings import LADDER, QUALITIES, Read, is_made_up, passes, read
from tests.stages.transcribing import SILENCE, draft, steady

GOOD = steady(8)
DOUBTED = replace(GOOD, avg_logprob=-1.5)
REPEATED = replace(GOOD, compression_ratio=3.0)
MADE_UP = draft(*[(1.0, 2.0)] * 3, *[(3.0, 3.0)] * 5)
INTO_SILENCE = replace(SILENCE, avg_logprob=-1.2, no_speech_prob=0.9)
STUCK = WindowError("The decoder is stuck.")


def squeezed(count: int, *, of: int) -> Draft:
    """A text of so many words, the last ones without a length."""
    words = tuple(DraftWord(" word", n, n + (n < of - count), 0.9) for n in range(of))
    return replace(GOOD, words=words)


ASKED = Options(prompt="Sonnets.", before="From fairest creatures")


async def readings(
    *answers: Draft | WindowError, temperatures: tuple[float, ...] = LADDER
) -> tuple[Read, list[Options]]:
    """What these answers come to, and what was asked for to have them."""
    asked: list[Options] = []
    given = iter(answers)

    async def ask(options: Options) -> Draft | WindowError:
        asked.append(options)
        return next(given)

    return await read(ask, ASKED, temperatures), asked


@pytest.mark.parametrize(
    ("drafts", "kept"),
    [
        pytest.param([GOOD], GOOD, id="the first passes"),
        pytest.param([DOUBTED, GOOD], GOOD, id="the second passes"),
        pytest.param([MADE_UP, DOUBTED, GOOD], GOOD, id="the third passes"),
        pytest.param([DOUBTED, replace(GOOD, avg_logprob=-1.2), MADE_UP], replace(GOOD, avg_logprob=-1.2), id="none"),
        pytest.param([MADE_UP, DOUBTED, MADE_UP], DOUBTED, id="however probable a made up one is"),
        pytest.param([REPEATED, replace(GOOD, avg_logprob=-0.4)], REPEATED, id="said again and again"),
        pytest.param([REPEATED, replace(GOOD, avg_logprob=-0.2)], replace(GOOD, avg_logprob=-0.2), id="a loop"),
        pytest.param([DOUBTED, SILENCE], DOUBTED, id="a text before none"),
        pytest.param([DOUBTED, STUCK], DOUBTED, id="an error later on"),
        pytest.param([SILENCE], SILENCE, id="nothing said"),
        pytest.param([STUCK], STUCK, id="an error"),
    ],
)
async def test_of_several_readings_the_best_is_kept(
    drafts: Sequence[Draft | WindowError], kept: Draft | WindowError
) -> None:
    found, asked = await readings(*drafts)
    assert found.answer == kept
    assert not found.dropped
    assert len(asked) == len(drafts)


@pytest.mark.parametrize(
    "drafts",
    [
        pytest.param([MADE_UP, MADE_UP, MADE_UP], id="every reading made up"),
        pytest.param([MADE_UP, INTO_SILENCE], id="silence after all"),
        pytest.param([MADE_UP, STUCK], id="no other reading to be had"),
        pytest.param([INTO_SILENCE], id="left out by the engine"),
        pytest.param([replace(GOOD, avg_logprob=-1.2, no_speech_prob=0.9)], id="written into silence"),
    ],
)
async def test_what_was_made_up_is_dropped_and_never_in_silence(drafts: Sequence[Draft | WindowError]) -> None:
    found, asked = await readings(*drafts)
    assert isinstance(found.answer, Draft)
    assert (found.answer.text, found.answer.words, found.dropped) == ("", (), True)
    assert len(asked) == len(drafts)


async def test_other_readings_are_of_other_temperatures_in_the_same_language_without_the_text_before() -> None:
    found, (first, second, third) = await readings(DOUBTED, MADE_UP, replace(GOOD, language_probability=None))
    assert first == ASKED
    assert second == Options(prompt="Sonnets.", language="en", temperature=0.4)
    assert third == replace(second, temperature=0.8)
    assert isinstance(found.answer, Draft)
    assert found.answer.language_probability == DOUBTED.language_probability


async def test_fast_reads_once() -> None:
    found, asked = await readings(MADE_UP, temperatures=QUALITIES["fast"].temperatures)
    assert (found.dropped, len(asked)) == (True, 1)
    found, asked = await readings(DOUBTED, temperatures=QUALITIES["fast"].temperatures)
    assert (found.answer, len(asked)) == (DOUBTED, 1)


@pytest.mark.parametrize(
    ("answers", "doubtful"),
    [
        ([GOOD], False),
        ([SILENCE], False),
        ([DOUBTED, GOOD], True),
        ([DOUBTED, STUCK], True),
        ([INTO_SILENCE], True),
        ([STUCK], True),
    ],
)
async def test_what_was_read_twice_or_dropped_is_nothing_to_go_on_from(
    answers: Sequence[Draft | WindowError], doubtful: bool
) -> None:
    found, _ = await readings(*answers)
    assert found.is_doubtful is doubtful


@pytest.mark.parametrize(
    ("heard", "good"),
    [
        (replace(GOOD, compression_ratio=2.4, avg_logprob=-1.0), True),
        (replace(GOOD, compression_ratio=2.41), False),
        (replace(GOOD, avg_logprob=-1.01), False),
        (replace(GOOD, avg_logprob=-1.01, no_speech_prob=0.61), True),
        (replace(GOOD, avg_logprob=None, no_speech_prob=None, compression_ratio=None), True),
        (MADE_UP, False),
    ],
)
def test_a_reading_is_judged_by_the_bounds_of_whisper_and_by_the_times_of_its_words(heard: Draft, good: bool) -> None:
    assert passes(heard) is good


@pytest.mark.parametrize(
    ("heard", "made_up"),
    [
        (squeezed(5, of=10), False),
        (squeezed(6, of=10), True),
        (squeezed(2, of=2), False),
        (replace(squeezed(3, of=12), compression_ratio=2.5), False),
        (replace(draft((0.0, 1.4)), words=(DraftWord("go" * 100, 0.0, 1.4, 0.9),), compression_ratio=25.0), True),
        (replace(squeezed(4, of=12), compression_ratio=2.5), True),
        (replace(GOOD, compression_ratio=2.5, cut=True), True),
        (replace(GOOD, cut=True), False),
        (replace(GOOD, words=(), compression_ratio=2.5), True),
        (replace(GOOD, words=(), compression_ratio=2.3), False),
    ],
)
def test_words_for_which_there_is_no_time_were_not_said(heard: Draft, made_up: bool) -> None:
    assert is_made_up(heard) is made_up
