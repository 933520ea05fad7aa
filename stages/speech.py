"""Where somebody speaks on a track: stretches of sound, found as the track grows.

    spool ─32-s blocks─▶ gate ─▶ Silero VAD ─frame scores─▶ Hysteresis ─▶ regions

Nothing depends on how the spool grew: blocks, frames and their scores are the same whenever they are read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import Final

import numpy as np
from anyio import to_thread

from pipeline.settings import AudioSettings
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.voice import BLOCK_FRAMES, FRAME, HALO_FRAMES, Floats, Silero, threads

PAD_FRAMES: Final = 10  # 0.32 s: soft onsets and endings that the model scores low
PAD_SECONDS: Final = PAD_FRAMES * FRAME / SAMPLE_RATE
MIN_SILENCE_FRAMES: Final = 2 * PAD_FRAMES  # so that the pads of two regions may touch but never overlap
MIN_SPEECH_FRAMES: Final = 6  # 0.19 s: a short "yes" stays, a click goes
MARGIN: Final = 0.15  # speech ends this far below the threshold at which it begins (Silero's own default)

READ_SAMPLES: Final = (BLOCK_FRAMES + HALO_FRAMES) * FRAME

LONGEST_SAMPLES: Final = 30 * SAMPLE_RATE  # what Whisper was trained on
LONGEST_FRAMES: Final = LONGEST_SAMPLES // FRAME - PAD_FRAMES
SEARCH_FRAMES: Final = 250  # speech without a pause is cut at the weakest point of its last 8 s
WEAK_FRAMES: Final = 5  # a point is 0.16 s: about the gap between two words


async def regions(spool: Spool, settings: AudioSettings) -> AsyncGenerator[Region, None]:
    """All speech of the track, in order, pads included; no region is longer than 30 s, none overlaps another.

    Ends early when the writer gave up: ``spool.error`` says so.
    """
    model, hysteresis = Silero(), Hysteresis(settings.vad_threshold)
    start, more = 0, True
    while more:
        await spool.reached(start + READ_SAMPLES)
        if spool.error is not None:
            return
        count = min(READ_SAMPLES, spool.length - start)
        scores, levels = await to_thread.run_sync(_heard, model, spool, start, count, limiter=threads())
        more = count > BLOCK_FRAMES * FRAME
        for region in hysteresis.hear(scores, levels):
            yield region
        if not more:
            for region in hysteresis.end(start + count):
                yield region
        start += BLOCK_FRAMES * FRAME


def _heard(model: Silero, spool: Spool, start: int, count: int) -> tuple[Floats, Floats]:
    """Read and listened to in one visit to a thread: each takes as long as hearing 40 ms of sound."""
    return model.hear(spool.stretch(start, count))


class Hysteresis:
    """Speech regions from frame scores: begins at the threshold, ends after a silence well below it.

    Regions come in order, never overlap, and with their pads are never longer than a window.
    """

    def __init__(self, threshold: float) -> None:
        self._on, self._off = threshold, max(threshold - MARGIN, 0.01)
        self._frame = 0  # the next one
        self._start: int | None = None  # of the open region, pad included
        self._spoke = 0  # where speech in it was first heard
        self._silent: int | None = None  # since when it has been silent
        self._closed = 0  # end of the last region
        self._strength: deque[float] = deque(maxlen=SEARCH_FRAMES)

    def hear(self, scores: Floats, levels: Floats) -> Iterator[Region]:
        """Regions that end with these frames. ``scores``: probability of speech; ``levels``: RMS; shape (n,)."""
        for score, strength in zip(scores.tolist(), (scores * levels).tolist(), strict=True):
            self._strength.append(strength)
            yield from self._step(score)
            self._frame += 1

    def end(self, samples: int) -> Iterator[Region]:
        """What is still open at the end of the track, ``samples`` long."""
        if self._start is not None:
            silent = self._frame if self._silent is None else self._silent
            for region in self._close(silent, min(silent + PAD_FRAMES, self._frame)):
                yield Region(region.start, min(region.end, samples))

    def _step(self, score: float) -> Iterator[Region]:
        if self._start is None:
            if score >= self._on:
                self._start, self._spoke = max(self._closed, self._frame - PAD_FRAMES), self._frame
            return
        if score >= self._off:
            self._silent = None
        elif self._silent is None:
            self._silent = self._frame
        if self._silent is not None and self._frame - self._silent >= MIN_SILENCE_FRAMES:
            yield from self._close(self._silent, self._silent + PAD_FRAMES)
        elif self._frame - self._start >= LONGEST_FRAMES:
            yield from self._cut()

    def _cut(self) -> Iterator[Region]:
        """End a region that has become too long: in the silence that it is in, or at its weakest point."""
        if self._silent is not None:
            yield from self._close(self._silent, min(self._silent + PAD_FRAMES, self._frame))
            return
        weakest = np.argmin(np.convolve(self._strength, np.ones(WEAK_FRAMES), "valid"))
        at = self._frame + 1 - SEARCH_FRAMES + int(weakest) + WEAK_FRAMES // 2
        yield from self._close(at, at)
        self._start = at

    def _close(self, silent: int, end: int) -> Iterator[Region]:
        assert self._start is not None
        if silent - self._spoke >= MIN_SPEECH_FRAMES:
            yield Region(self._start * FRAME, end * FRAME)
            self._closed = end
        self._start = self._silent = None
