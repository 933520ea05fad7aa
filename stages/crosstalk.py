"""Cross-talk: the stretches of a track in which only a voice is heard that belongs to another track.

    spools ─▶ likeness ─▶ when two tracks have a sound in common ─▶ echoes: delay, gain in each band ─┐
    spools ─▶ loudness of each band ─▶ beside what the echoes of all other voices would be ◀──────────┘─▶ Bleed

A voice is louder on its own microphone than on the others. So the level differences of two tracks, where they have a
sound in common, gather at two values: one where the first speaks, one where the second does. What is learnt in the
second case is how loud that voice is on the first track. What is no louder is its echo; what is, is the track's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from anyio import from_thread
from numpy.typing import NDArray

from stages.echoes import AUDIBLE, Echo, echoes_of, learn
from stages.likeness import Heard, compare, samples_of
from stages.loudness import FRAME, FRAMES, Loudness
from stages.messages import Bleed
from stages.spool import Region
from stages.voice import Floats

__all__ = ["Heard", "find"]

Places = NDArray[np.int16]
Span = tuple[int, int]  # first frame, and one past the last

PLAIN: Final = 15.0  # dB above what is just audible; more does not make a band count more
MARGIN: Final = 6.0  # dB that an echo may be louder than expected; at most half of the way to the own voice
SMOOTHED: Final = 11  # frames over which bands are counted: 0.22 s, a syllable
QUIET: Final = 4.0  # dB that the bands of a frame must be audible, together
ECHO: Final = 0.8  # share of what is audible that must be echo
OWN: Final = 0.5  # share that own words fall below, over whatever echo they are said
COPIED: Final = 0.5  # what a voice counts as a source where it is itself an echo

SHORTEST_OWN: Final = 6  # frames; less is chance
SHORTEST_DOUBT: Final = 15  # frames between the two shares; less is an echo that for once is louder than expected
SHORTEST_BLEED: Final = 10  # frames; less is not worth a seam
SHORTEST_VOICE: Final = 15  # frames; less is no change of speakers
ROOM: Final = 10  # frames of silence that stay with own words


def find(tracks: Sequence[Heard]) -> Mapping[str, tuple[Bleed, ...]]:
    """Where each track, by its id, has only others' voices: in order, never overlapping, within its speech.

    Blocks, an hour of a track for a second, or three where there are eight: for a worker thread, where it can be
    cancelled.
    """
    echoes = echoes_of(tracks, compare(tracks))
    halo = 2 + max((round(np.max(np.abs(echo.likeness.lags)) / FRAME) for echo in echoes), default=0)
    verdicts = [_Verdict(heard, [other.track for other in tracks]) for heard in tracks]
    for start in range(0, samples_of(tracks) if echoes else 0, FRAMES * FRAME):
        from_thread.check_cancelled()
        loudness = [Loudness(heard.spool, start, halo) for heard in tracks]
        learn(echoes, start, loudness)
        known = [echo for echo in echoes if echo.known]
        judged = [_Shares(number, loudness, known) for number in range(len(tracks))]
        for number, verdict in enumerate(verdicts):
            verdict.add(judged[number].echo, judged[number].sources(judged))
    return {heard.track: tuple(verdict.bleeds) for heard, verdict in zip(tracks, verdicts, strict=True)}


class _Shares:
    """How much of what is audible on a track, in each frame of a stretch, is echo. float32, shape (FRAMES,).

    ``echo`` is of all echoes together, and NaN where nothing is audible.
    """

    def __init__(self, track: int, loudness: Sequence[Loudness], echoes: Sequence[Echo]) -> None:
        self._echoes = [echo for echo in echoes if echo.target == track]
        levels = [echo.level(loudness) for echo in self._echoes]
        own = loudness[track]
        weights = np.clip(own.above_noise - AUDIBLE, 0, PLAIN)
        audible = _smoothed(weights)
        audible[audible < QUIET] = np.nan
        margin = min([MARGIN, *(echo.apart / 2 for echo in self._echoes)])
        self._each = [_smoothed(weights * (own.levels < level + margin)) for level in levels]
        together = _smoothed(weights * (own.levels < _sum(levels) + margin)) if levels else np.zeros(FRAMES, np.float32)
        self.echo: Floats = together / audible

    def sources(self, judged: Sequence[_Shares]) -> Places:
        """Whose echo is heard most in each frame, shape (FRAMES,): a place in the list of tracks."""
        if not self._echoes:
            return np.zeros(FRAMES, np.int16)
        shares = [
            share * np.where(np.roll(judged[echo.source].echo > ECHO, round(echo.delay / FRAME)), COPIED, 1)
            for echo, share in zip(self._echoes, self._each, strict=True)
        ]
        places: Places = np.array([echo.source for echo in self._echoes], np.int16)[np.argmax(shares, axis=0)]
        return places


def _sum(levels: Sequence[Floats]) -> Floats:
    """Of several sounds, in dB."""
    total: Floats = 10 * np.log10(np.sum([10 ** (level / 10) for level in levels], axis=0))
    return total


def _smoothed(bands: Floats) -> Floats:
    """All bands together, in the mean of the frames around each; shape (frames,)."""
    return np.convolve(bands.sum(axis=1), np.full(SMOOTHED, 1 / SMOOTHED, np.float32), "same").astype(np.float32)


class _Verdict:
    """What is said of the speech of one track. It remembers no more than the speech that has not ended yet."""

    def __init__(self, heard: Heard, names: Sequence[str]) -> None:
        self.bleeds: list[Bleed] = []
        self._ahead, self._names = deque(heard.speech), names
        self._first = 0  # frame
        self._echo = np.zeros(0, np.float32)
        self._sources = np.zeros(0, np.int16)

    def add(self, echo: Floats, sources: Places) -> None:
        """The next stretch."""
        self._echo = np.concatenate([self._echo, echo])
        self._sources = np.concatenate([self._sources, sources])
        end = self._first + len(self._echo)
        while self._ahead and self._ahead[0].end <= end * FRAME:
            self.bleeds += self._within(self._ahead.popleft())
        passed = min(end, self._ahead[0].start // FRAME) - self._first if self._ahead else len(self._echo)
        self._echo, self._sources = self._echo[passed:], self._sources[passed:]
        self._first += passed

    def _within(self, region: Region) -> Iterator[Bleed]:
        first, last = region.start // FRAME, -(-region.end // FRAME)
        frames = slice(first - self._first, last - self._first)
        echo, sources = self._echo[frames], self._sources[frames]
        for start, end in _one_by_one(echo, sources):
            sure = echo[start:end] > ECHO
            source = int(np.bincount(sources[start:end][sure]).argmax())
            bleed = Region(max(region.start, (first + start) * FRAME), min(region.end, (first + end) * FRAME))
            yield Bleed(bleed, self._names[source], min(1.0, float(np.mean(echo[start:end][sure]))))


def _one_by_one(echo: Floats, sources: Places) -> Iterator[Span]:
    """The stretches that have echo and nothing of the track's own, each of one voice."""
    for first, last in _without_own(echo):
        changes = _changes(sources[first:last], echo[first:last] > ECHO)
        yield from pairwise([first, *(first + change for change in changes), last])


def _changes(sources: Places, heard: NDArray[np.bool_]) -> list[int]:
    """Frames from which on another voice is heard, and not just for a moment. In silence the last one goes on."""
    last = np.maximum.accumulate(np.where(heard, np.arange(len(heard)), np.argmax(heard)))
    voices = sources[last]
    edges = [0, *(np.flatnonzero(np.diff(voices)) + 1).tolist(), len(voices)]
    starts = [start for start, end in pairwise(edges) if end - start >= SHORTEST_VOICE]
    return [start for before, start in pairwise(starts) if voices[start] != voices[before]]


def _without_own(echo: Floats) -> Iterator[Span]:
    """The stretches that have echo and nothing of the track's own; silence in and beside it belongs to them."""
    own = np.zeros(len(echo), np.bool_)
    for first, last in _runs(echo <= ECHO):
        shortest = SHORTEST_OWN if echo[first:last].min() < OWN else SHORTEST_DOUBT
        if last - first >= shortest:
            own[max(0, first - _silence(echo[:first][::-1])) : last + _silence(echo[last:])] = True
    for first, last in _runs(~own):
        if np.count_nonzero(echo[first:last] > ECHO) >= SHORTEST_BLEED:
            yield first, last


def _silence(echo: Floats) -> int:
    """Frames of silence at the beginning, as many as may stay with own words."""
    return int(np.argmin(np.append(np.isnan(echo[:ROOM]), False)))


def _runs(mask: NDArray[np.bool_]) -> Iterator[Span]:
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
