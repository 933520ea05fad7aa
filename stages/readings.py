"""The readings of one window: asked for again where one fails its checks, and the best of them kept.

    temperature 0 ─ passes? ─▶ kept
                  └ 0.4 ─ passes? ─▶ the best of two
                        └ 0.8 ─▶ the best of three, or none: its text is left out, with a warning

Whisper's numbers tell which reading is in doubt; the times of its words tell which one was made up. A phrase that is
said six times packs as well as a loop does, but each of its words has a time at which it is heard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from stages.engines import Draft, DraftWord, Options, WindowError
from stages.engines.checks import IMPROBABLE, LOOP, is_silence

# What share of a text's characters lies in words that are too short for them, as *base* heard real clips, clips
# repeated 6 to 18 times, and noise, backward speech and misleading prompts or languages:
#                       faster_whisper and openai_whisper     whisper_cpp, less sure of times
#   real clips                   0 … 0.06                           0 … 0.14
#   said again and again         0 … 0.19                        0.23 … 0.67
#   loops                     0.30 … 1.00                          0.63 … 0.94
SQUEEZED: Final = 0.01  # seconds a character: a word that has less has no place; nobody speaks 25 in a second
LOOP_SHARE: Final = 0.25  # the most in a text that packs as a loop does
MOST_SHARE: Final = 0.5  # the most in any other text: "1,5,5,5,5,5,5", heard in noise, is too short to pack so
FEW: Final = 3  # words without a place that any other text may have

Ask = Callable[[Options], Awaitable[Draft | WindowError]]


@dataclass(frozen=True, slots=True)
class Quality:
    """What a client's word for quality means. ``lock_step``: each window is given the text before it."""

    beam: int
    temperatures: tuple[float, ...]
    short: bool = False
    lock_step: bool = False


LADDER: Final = (0.0, 0.4, 0.8)  # every other step of openai/whisper's, which has six

QUALITIES: Final[dict[Literal["fast", "balanced", "accurate"], Quality]] = {
    "fast": Quality(1, (0.0,), short=True),
    "balanced": Quality(5, LADDER),  # 5 beams, as Whisper's command line and faster-whisper have
    "accurate": Quality(5, LADDER, lock_step=True),
}


@dataclass(frozen=True, slots=True)
class Read:
    """What the readings of a window came to. ``readings``: how often it was asked for, those included that failed.

    ``dropped``: there was text, and all of it was made up.
    """

    answer: Draft | WindowError
    readings: int = 1
    dropped: bool = False

    @property
    def is_doubtful(self) -> bool:
        """Whether this is nothing to go on from: the next window is better heard without it."""
        return self.readings > 1 or self.dropped or isinstance(self.answer, WindowError)


async def read(ask: Ask, options: Options, temperatures: tuple[float, ...]) -> Read:
    """Ask at one temperature after the other until a reading passes. An error after the first one ends the asking."""
    first = await ask(options)
    if isinstance(first, WindowError):
        return Read(first)
    readings = [first]
    # What the text before led to may have been the fault.
    again = replace(options, language=first.language, before=None)
    asked = 1
    for temperature in temperatures[1:]:
        if passes(readings[-1]):
            break
        asked += 1
        answer = await ask(replace(again, temperature=temperature))
        if isinstance(answer, WindowError):
            break
        readings.append(replace(answer, language_probability=first.language_probability))
    return _best(readings, asked)


def passes(draft: Draft) -> bool:
    """Whether there is no reason to ask again. Silence is no reason, whatever was written in it."""
    if is_silent(draft):
        return True
    improbable = draft.avg_logprob is not None and draft.avg_logprob < IMPROBABLE
    return not (improbable or _repeats(draft) or is_made_up(draft))


def is_made_up(draft: Draft) -> bool:
    """Whether a text has no place in the sound, since too much of it lies in words that are too short for it.

    Without words it is judged by the compression ratio alone, and what is said again and again is lost.
    """
    if not draft.words:
        return _repeats(draft)
    squeezed = [word for word in draft.words if word.end - word.start < SQUEEZED * len(word.word.strip())]
    share = _characters(squeezed) / (_characters(draft.words) or 1)
    if _repeats(draft):
        return draft.cut or share > LOOP_SHARE  # only a loop goes on to the limit of tokens
    return len(squeezed) >= FEW and share > MOST_SHARE


def _characters(words: Iterable[DraftWord]) -> int:
    return sum(len(word.word.strip()) for word in words)


def _best(readings: list[Draft], asked: int) -> Read:
    """The most probable of those that were not made up."""
    good = [draft for draft in readings if draft.text and not is_made_up(draft) and not is_silent(draft)]
    if good:
        best = max(good, key=lambda draft: -float("inf") if draft.avg_logprob is None else draft.avg_logprob)
        return Read(best, asked)
    # An engine leaves out by itself what it wrote into silence, and its numbers tell that it did.
    dropped = any(draft.text or is_silent(draft) for draft in readings)
    return Read(replace(readings[-1], text="", words=()), asked, dropped)


def _repeats(draft: Draft) -> bool:
    return (draft.compression_ratio or 0.0) > LOOP


def is_silent(draft: Draft) -> bool:
    """Whether the model itself thinks that nobody speaks; an engine that cannot tell never does."""
    if draft.no_speech_prob is None or draft.avg_logprob is None:
        return False
    return is_silence(draft.no_speech_prob, draft.avg_logprob)
