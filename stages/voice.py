"""Where a voice is heard: Silero VAD over a track, behind a gate that keeps it from listening to silence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.settings import cores
from stages.spool import Samples

Floats = NDArray[np.float32]

# What Silero VAD v6 was trained on at 16 kHz: frames of 32 ms, each with the 4 ms before it.
FRAME: Final = 512
CONTEXT: Final = 64
STATE_SHAPE: Final = (1, 1, 128)

BLOCK_FRAMES: Final = 1000  # 32 s in one call of the model
GATE_LEVEL: Final = 10 ** (-55 / 20)  # -55 dBFS: frames more than a second from anything louder are not looked at
HALO_FRAMES: Final = 31


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
        sound[: len(samples)] = floats(samples)
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


def floats(samples: Samples) -> Floats:
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


_limiter: RunVar[CapacityLimiter] = RunVar("stages.voice")


def threads() -> CapacityLimiter:
    """As many threads as cores, shared by the tracks of one event loop."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(cores())
        _limiter.set(limiter)
    return limiter
