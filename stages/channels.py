"""What two channels, or two tracks, are to each other: the same sound twice, a voice a side, or one recording.

Everything here reads spools that have ended, block by block, on a worker thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from anyio import from_thread
from numpy.typing import NDArray

from stages import likeness
from stages.likeness import Heard, stretch_of
from stages.speech import MIN_SPEECH_FRAMES
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.voice import FRAME, GATE_LEVEL, Floats

BLOCK: Final = 32 * SAMPLE_RATE

# Two voices correlate with nothing; measured on calls, on spoken stereo and on music.
UNLIKE: Final = 0.6
APART: Final = 10 ** (6 / 10)
ONE_SIDED: Final = 0.6
LEAST: Final = 0.01  # of the voiced frames belong to each side: less is an echo or a cough, and loses nothing unsplit
ONE_ROOM: Final = 0.1  # of the seconds in which both speak: two people share no sound, two microphones nearly always
AT_ONCE: Final = 3  # such seconds, to tell anything by them
ABOVE_NOISE: Final = 10 ** (10 / 10)  # a side is active this far above its own quietest tenth

# One sound in AAC, MP3 or Opus at 64 kb/s differs by -15 to -30 dB below 2 kHz. A voice 12 dB under another that
# speaks at the same time is understood by no model; above 2 kHz codecs make up much, and no voice is there alone.
MASKED: Final = 10 ** (-12 / 10)
AUDIBLE: Final = GATE_LEVEL**2
WINDOW: Final = SAMPLE_RATE // 4
DECIMATION: Final = 4
MOST_LAG: Final = 512  # 32 ms: the delay of most encoders, where the container does not tell it
LIKELY: Final = 0.9  # correlation of the levels of two tracks that are worth a closer look


class Pair(StrEnum):
    """SAME: one sound twice, perhaps inverted. SIDES: a voice a side. STEREO: one recording from two places."""

    SAME = "same"
    SIDES = "sides"
    STEREO = "stereo"


def compare(left: Heard, right: Heard) -> Pair:
    """What the two channels of a stream are.

    Where only one side ever speaks, that is one voice and not a call: nothing is gained by a track of silence.
    """
    if _same(left.spool, right.spool):
        return Pair.SAME
    return Pair.SIDES if _take_turns(left, right) or _talk_at_once(left, right) else Pair.STEREO


def duplicates(spools: Sequence[Spool]) -> tuple[int | None, ...]:
    """For each track the first one that it sounds the same as, if there is any.

    The same: what is left when one is taken from the other is inaudible or masked, everywhere. Not two silent tracks.
    """
    likely = _likely(spools)
    found: list[int | None] = []
    for track, spool in enumerate(spools):
        originals = (other for other in range(track) if found[other] is None and likely[track, other])
        found.append(next((other for other in originals if _same(spools[other], spool)), None))
    return tuple(found)


def _take_turns(left: Heard, right: Heard) -> bool:
    """Whether there is a voice on each side that is mostly alone."""
    parts = list(_frames(left.spool, right.spool, _either(left.speech, right.speech)))
    if not parts:
        return False
    power, products = (np.concatenate(column) for column in zip(*parts, strict=True))
    noise = np.percentile(power, 10, axis=0)
    active = power > np.maximum(ABOVE_NOISE * noise, AUDIBLE)
    voiced = active.any(axis=1)
    both = power[voiced].mean(axis=0, dtype=np.float64) if voiced.any() else np.zeros(2)
    if abs(products[voiced].sum(dtype=np.float64)) >= UNLIKE * voiced.sum() * np.sqrt(both.prod()):
        return False
    alone = (active & (power > APART * power[:, ::-1])).sum(axis=0)
    enough = max(MIN_SPEECH_FRAMES, LEAST * voiced.sum())
    return bool(alone.min() >= enough and alone.sum() >= ONE_SIDED * voiced.sum())


def _talk_at_once(left: Heard, right: Heard) -> bool:
    """Whether both sides speak at the same time and yet have no sound in common, however late or quiet."""
    alike = likeness.compare([left, right])[0, 1]
    return alike.spoken >= AT_ONCE and len(alike) <= ONE_ROOM * alike.spoken


def _either(one: Sequence[Region], other: Sequence[Region]) -> list[Region]:
    """Where either speaks: in order, and what both say at the same time once."""
    merged: list[Region] = []
    for region in sorted((*one, *other), key=lambda region: region.start):
        if merged and region.start <= merged[-1].end:
            merged[-1] = Region(merged[-1].start, max(merged[-1].end, region.end))
        else:
            merged.append(region)
    return merged


def _frames(left: Spool, right: Spool, speech: Sequence[Region]) -> Iterator[tuple[Floats, Floats]]:
    """Power of both sides, shape (n, 2), and their mean product, shape (n,), in the frames of each region."""
    for region in speech:
        for start in range(region.start, region.end - FRAME + 1, BLOCK):
            from_thread.check_cancelled()
            count = (min(BLOCK, region.end - start)) // FRAME * FRAME
            one, other = (stretch_of(spool, start, count).reshape(-1, FRAME) for spool in (left, right))
            yield np.stack([_power(one), _power(other)], axis=1), np.mean(one * other, axis=1)


def _likely(spools: Sequence[Spool]) -> NDArray[np.bool_]:
    """Which tracks are as loud as each other at the same times, shape (tracks, tracks)."""
    levels = np.zeros((_blocks(spools) * BLOCK // SAMPLE_RATE, len(spools)), np.float32)
    for block in range(_blocks(spools)):
        from_thread.check_cancelled()
        for track, spool in enumerate(spools):
            seconds = stretch_of(spool, block * BLOCK, BLOCK).reshape(-1, SAMPLE_RATE)
            levels[block * len(seconds) : (block + 1) * len(seconds), track] = np.sqrt(_power(seconds))
    gram = levels.T @ levels
    norms = np.sqrt(np.diag(gram))
    likely: NDArray[np.bool_] = gram > LIKELY * np.outer(norms, norms)
    return likely


@dataclass(frozen=True, slots=True)
class _Fit:
    """How the other track lies to the first: so many samples later, upright (1) or inverted (-1)."""

    lag: int
    sign: int


def _same(one: Spool, other: Spool) -> bool:
    fit: _Fit | None = None
    for block in range(_blocks((one, other))):
        from_thread.check_cancelled()
        start = block * BLOCK
        sound = stretch_of(one, start, BLOCK)
        if fit is None and _audible(sound):
            fit = _fitted(sound, stretch_of(other, start, BLOCK))
        lag, sign = (fit.lag, fit.sign) if fit else (0, 1)
        if not _alike(sound, sign * stretch_of(other, start + lag, BLOCK)):
            return False
    return fit is not None


def _alike(one: Floats, other: Floats) -> bool:
    one, other = (sound.reshape(-1, DECIMATION).mean(axis=1) for sound in (one, other))
    rest, first, second = (_power(part.reshape(-1, WINDOW // DECIMATION)) for part in (one - other, one, other))
    return bool(np.all(rest <= np.maximum(AUDIBLE, MASKED * np.maximum(first, second))))


def _fitted(one: Floats, other: Floats) -> _Fit:
    size = 2 * len(one)
    spectrum = np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size))
    around = np.roll(np.fft.irfft(spectrum, size), MOST_LAG)[: 2 * MOST_LAG + 1]
    best = int(np.argmax(np.abs(around)))
    return _Fit(best - MOST_LAG, -1 if around[best] < 0 else 1)


def _audible(sound: Floats) -> bool:
    return bool(np.any(_power(sound.reshape(-1, WINDOW)) > AUDIBLE))


def _power(rows: Floats) -> Floats:
    """Mean square of each row."""
    power: Floats = np.mean(np.square(rows), axis=1)
    return power


def _blocks(spools: Sequence[Spool]) -> int:
    longest = max((round(spool.seconds * SAMPLE_RATE) for spool in spools), default=0)
    return -(-longest // BLOCK)
