"""The device a model runs on: which one, in what precision, and whether it is still there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pipeline.errors import ConfigError, EngineLost


def choose_device(asked: str, *, cards: int) -> str:
    """``cpu`` or ``cuda``. Raises ``ConfigError`` when a card is asked for and there is none."""
    if asked == "cuda" and not cards:
        raise ConfigError("ENGINE__DEVICE=cuda, but no CUDA card can be used on this machine; set it to cpu or auto.")
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


@contextmanager
def watched() -> Iterator[None]:
    """Tell a lost device (``EngineLost``) from a batch that failed; out of memory is a batch that was too big."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        too_big = "out of memory" in reason or "ALLOC_FAILED" in reason
        if reason.startswith(("CUDA", "cuBLAS", "cuDNN")) and not too_big:
            raise EngineLost(f"The device failed: {reason}") from error
        raise
