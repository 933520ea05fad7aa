"""The device a model runs on: which one, in what precision, how greedily, and whether it is still there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from pipeline.errors import ConfigError, EngineLost
from stages.engines import BatchTooBig

T = TypeVar("T")

# Enough for the event loop to be let on a core at once when all of them compute: a third of an ordinary thread's share.
NICENESS: Final = 5

# CUDA's allocator, cuBLAS and cuDNN, and the one CTranslate2 has for processors.
NO_MEMORY: Final = ("out of memory", "ALLOC_FAILED", "failed to allocate memory")


def choose_device(asked: str, *, cards: int) -> str:
    """``cpu`` or ``cuda``. Raises ``ConfigError`` when a card is asked for and there is none."""
    if asked == "cuda" and not cards:
        raise ConfigError("ENGINE__DEVICE=cuda, but no CUDA card can be used on this machine; set it to cpu or auto.")
    if asked == "mps":
        raise ConfigError(
            "ENGINE__DEVICE=mps, but CTranslate2 does not know Metal; "
            "set it to auto, or ENGINE__BACKEND to whisper_cpp or openai_whisper."
        )
    if asked == "auto":
        return "cuda" if cards else "cpu"
    return asked


def choose_precision(asked: str, device: str, supported: Collection[str]) -> str:
    """Raises ``ConfigError`` when the device cannot compute in the type asked for."""
    usual = "float16" if device == "cuda" else "int8"
    chosen = usual if asked == "auto" else asked
    if chosen not in supported:
        raise ConfigError(
            f"ENGINE__COMPUTE_TYPE={chosen} is not for {device} here; use {', '.join(sorted(supported))}."
        )
    return chosen


def nice_threads(count: int) -> ThreadPoolExecutor:
    """Threads that let everybody else go first, those that answer requests above all."""
    return ThreadPoolExecutor(count, "nice", _step_back)


def with_nice_threads(make: Callable[[], T]) -> T:
    """What ``make`` makes; threads that it starts are nice as well.

    They inherit the niceness of the thread that starts them, which on Linux is a thread's own.
    """
    with nice_threads(1) as thread:
        return thread.submit(make).result()


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        os.nice(NICENESS)


@contextmanager
def watched() -> Iterator[None]:
    """Tell what an error of CTranslate2 means: ``BatchTooBig`` for the memory there is, or ``EngineLost``.

    What it says of anything else passes as it is.
    """
    try:
        yield
    except MemoryError as error:
        raise BatchTooBig("This machine has no memory left for the batch.") from error
    except RuntimeError as error:
        reason = str(error)
        if any(sign in reason for sign in NO_MEMORY):
            raise BatchTooBig(f"The device has no memory left for the batch: {reason}") from error
        if reason.startswith(("CUDA", "cuBLAS", "cuDNN")):
            raise EngineLost(f"The device failed: {reason}") from error
        raise
