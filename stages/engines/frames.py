"""What Whisper's encoder is given of a window: log-mel frames of 10 ms, 30 s of them or fewer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

FRAMES: Final = 3000  # the 30 s that it was trained on
HOP: Final = 160  # samples a frame
TAIL: Final = 800  # samples of silence behind the speech: enough for frames that hear nothing else

# Weights measured to hear as well in less than 30 s: bytes of model.bin, and its SHA-256. Base in int8, greedy, on 34
# pieces of 1.5 to 11 s: 6.9 CPU seconds of encoding instead of 24.4, and 52 wrong words of 445 instead of 50; 55 with
# 200 frames of silence, 51 with 500.
HEAR_SHORT_WINDOWS: Final[Mapping[int, str]] = {
    145_217_532: "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",  # base
}
LEAST: Final = 1000
SILENT: Final = 300  # at least so many behind the speech, without which its end is lost
STEP: Final = 200  # windows share a batch if they are of one length


def hears_short_windows(weights: Path, measured: Mapping[int, str] = HEAR_SHORT_WINDOWS, *, behind: int = 0) -> bool:
    """Whether this file is a measured one, wherever it lies. Reads a file of another size not at all.

    ``behind``: bytes at its start that are no weights, and not in the SHA-256.
    """
    digest = measured.get(weights.stat().st_size)
    if digest is None:
        return False
    with weights.open("rb") as file:
        file.seek(behind)
        return file_digest(file, "sha256").hexdigest() == digest


def short_window(frames: int) -> int:
    """How many frames do for so many of speech."""
    return min(FRAMES, STEP * math.ceil(max(LEAST, frames + SILENT) / STEP))


def is_silent(features: Features) -> bool:
    """Digital silence, which Whisper would fill with words of its own."""
    return bool(features.min() == features.max())


def log_mel(extract: Callable[..., Features], samples: NDArray[np.float32], frames: int) -> Features:
    """Float32, shape (mels, frames): the samples and silence behind them, of which only the start is worked out.

    ``extract`` is the library's, whose loudest moment sets the floor of all others, silence too.
    """
    mel = extract(samples, padding=TAIL)[:, :frames]
    return np.pad(mel, ((0, 0), (0, frames - mel.shape[1])), constant_values=mel[0, -1])
