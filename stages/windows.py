"""A track's audio as speech windows: stretches of at most 30 s in which somebody speaks, cut where nobody does.

    spool ─32-s blocks─▶ gate ─▶ Silero VAD ─frame scores─▶ Hysteresis ─regions─▶ packed into windows

Nothing depends on how the spool grew: blocks, frames and their scores are the same whenever they are read.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.settings import AudioSettings, cores
from stages.spool import SAMPLE_RATE, Samples, Spool

Floats = NDArray[np.float32]

# What Silero VAD v6 was trained on at 16 kHz: frames of 32 ms, each with the 4 ms before it.
FRAME: Final = 512
CONTEXT: Final = 64
STATE_SHAPE: Final = (1, 1, 128)

BLOCK_FRAMES: Final = 1000  # 32 s in one call of the model
GATE_LEVEL: Final = 10 ** (-55 / 20)  # -55 dBFS: frames more than a second from anything louder are not looked at
HALO_FRAMES: Final = 31

PAD_FRAMES: Final = 10  # 0.32 s: soft onsets and endings that the model scores low
MIN_SILENCE_FRAMES: Final = 2 * PAD_FRAMES  # so that the pads of two regions may touch but never overlap
MIN_SPEECH_FRAMES: Final = 6  # 0.19 s: a short "yes" stays, a click goes
MARGIN: Final = 0.15  # speech ends this far below the threshold at which it begins (Silero's own default)

WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE  # what Whisper was trained on
LONGEST_FRAMES: Final = WINDOW_SAMPLES // FRAME - PAD_FRAMES
SEARCH_FRAMES: Final = 250  # speech without a pause is cut at the weakest point of its last 8 s
WEAK_FRAMES: Final = 5  # a point is 0.16 s: about the gap between two words
KEPT_GAP: Final = SAMPLE_RATE  # shorter gaps stay as they are: the pause tells the model where a sentence ends


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of the track, in samples."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the track that lies unbroken in a window. All in seconds."""

    track_start: float
    window_start: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class SpeechWindow:
    """Speech of one track, in order. ``samples``: float32, shape (n,), mono, 16 000 Hz, −1 … 1, at most 30 s."""

    samples: Floats
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def passed(self) -> float:
        """Seconds of the track up to which all speech lies in this window or an earlier one."""
        return self.pieces[-1].track_start + self.pieces[-1].seconds

    def to_track(self, seconds: float) -> float:
        """Where a time of this window lies on the track. A seam between pieces belongs to the later one."""
        return self._within(self._piece_at(seconds), seconds)

    def span(self, start: float, end: float) -> tuple[float, float]:
        """A word of this window on the track: kept whole, in the piece that holds its middle."""
        piece = self._piece_at((start + end) / 2)
        return self._within(piece, start), self._within(piece, end)

    def _piece_at(self, seconds: float) -> Piece:
        return self.pieces[max(0, bisect_right(self.pieces, seconds, key=lambda piece: piece.window_start) - 1)]

    @staticmethod
    def _within(piece: Piece, seconds: float) -> float:
        return piece.track_start + min(max(0.0, seconds - piece.window_start), piece.seconds)


async def windows(spool: Spool, settings: AudioSettings) -> AsyncGenerator[SpeechWindow, None]:
    """All speech of the track, as it arrives. Ends early when the writer gave up: ``spool.error`` says so."""
    model, hysteresis = Silero(), Hysteresis(settings.vad_threshold)
    pieces: tuple[Region, ...] = ()
    start, more = 0, True
    while more:
        samples = await spool.read(start, (BLOCK_FRAMES + HALO_FRAMES) * FRAME)
        if spool.error is not None:
            return
        scores, levels = await to_thread.run_sync(model.hear, samples, limiter=_threads())
        more = len(samples) > BLOCK_FRAMES * FRAME
        regions = [*hysteresis.hear(scores, levels), *(() if more else hysteresis.end(start + len(samples)))]
        for region in regions:
            longer = joined(pieces, region)
            if longer is None:
                yield await _window(spool, pieces)
            pieces = longer or (region,)
        start += BLOCK_FRAMES * FRAME
    if pieces:
        yield await _window(spool, pieces)


def joined(pieces: tuple[Region, ...], region: Region) -> tuple[Region, ...] | None:
    """One window of these pieces and the next region, or ``None`` if that is longer than a window may be."""
    if pieces and region.start - pieces[-1].end <= KEPT_GAP:
        pieces, region = pieces[:-1], Region(pieces[-1].start, region.end)
    longer = (*pieces, region)
    return longer if sum(piece.end - piece.start for piece in longer) <= WINDOW_SAMPLES else None


async def _window(spool: Spool, regions: tuple[Region, ...]) -> SpeechWindow:
    sounds = [await spool.read(region.start, region.end - region.start) for region in regions]
    return SpeechWindow(_floats(np.concatenate(sounds)), laid_out(regions))


def laid_out(regions: tuple[Region, ...]) -> tuple[Piece, ...]:
    """The regions one after the other, as the pieces of one window."""
    pieces, filled = [], 0
    for region in regions:
        length = region.end - region.start
        pieces.append(Piece(region.start / SAMPLE_RATE, filled / SAMPLE_RATE, length / SAMPLE_RATE))
        filled += length
    return tuple(pieces)


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


class Silero:
    """Silero VAD over one track, block after block. It forgets where the gate lets nothing through."""

    def __init__(self) -> None:
        self._before = np.zeros(CONTEXT, np.float32)
        self._loud_before = np.zeros(HALO_FRAMES, np.bool_)
        self._state = _fresh_state()
        self._listening = False

    def hear(self, samples: Samples) -> tuple[Floats, Floats]:
        """Probability of speech and RMS level of each frame of the next block, shape (frames,).

        ``samples``: the block and, unless the track ends, the second after it.
        """
        frames = max(1, -(-len(samples) // FRAME))  # an empty track is one frame of silence
        sound = np.zeros(frames * FRAME, np.float32)
        sound[: len(samples)] = _floats(samples)
        levels = np.sqrt(np.mean(np.square(sound.reshape(-1, FRAME)), axis=1))
        audible = self._audible(levels > GATE_LEVEL)
        count = len(audible)
        heard = sliding_window_view(np.concatenate([self._before, sound[: count * FRAME]]), FRAME + CONTEXT)[::FRAME]
        scores = np.zeros(count, np.float32)
        for first, last in _runs(audible):
            if first or not self._listening:
                self._state = _fresh_state()
            scores[first:last], self._state = _score(heard[first:last], self._state)
        self._listening = bool(audible[-1])
        self._before = heard[-1, FRAME:]
        return scores, levels[:count].astype(np.float32)

    def _audible(self, loud: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Frames of the block within the halo of a loud one, before, in or after it."""
        count = min(len(loud), BLOCK_FRAMES)
        around = np.zeros(count + 2 * HALO_FRAMES, np.bool_)
        around[:HALO_FRAMES] = self._loud_before
        around[HALO_FRAMES : HALO_FRAMES + len(loud)] = loud
        self._loud_before = around[count : count + HALO_FRAMES]
        near: NDArray[np.bool_] = np.logical_or.reduce(sliding_window_view(around, 2 * HALO_FRAMES + 1), axis=1)
        return near


State = tuple[Floats, Floats]


def _fresh_state() -> State:
    return np.zeros(STATE_SHAPE, np.float32), np.zeros(STATE_SHAPE, np.float32)


def _score(frames: Floats, state: State) -> tuple[Floats, State]:
    scores, h, c = _session().run(None, {"input": np.ascontiguousarray(frames), "h": state[0], "c": state[1]})
    return scores, (h, c)


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and one past the last index of each stretch of ``True``."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _floats(samples: Samples) -> Floats:
    return samples.astype(np.float32) / np.float32(1 << 15)


@cache
def _session() -> Any:
    """The model, from the file that the faster-whisper package carries. Safe to call from several threads."""
    # Read when the library is loaded, which else gives this machine an id and tells its maker of every start.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    spec = find_spec("faster_whisper")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ConfigError("The package faster-whisper, which carries the speech detector, is not installed.")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # tracks are heard side by side, not frames
    options.enable_cpu_mem_arena = False  # it would keep the memory of the largest block for ever
    path = Path(folders[0]) / "assets" / "silero_vad_v6.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


_limiter: RunVar[CapacityLimiter] = RunVar("stages.windows")


def _threads() -> CapacityLimiter:
    """As many threads as cores, shared by the tracks of one event loop."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(cores())
        _limiter.set(limiter)
    return limiter
