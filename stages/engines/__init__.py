"""What an engine is: a model as a plain synchronous object, and the windows and drafts it deals in."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from pipeline.transcript import EngineInfo
from stages.engines.backend import INSTALL, choose_backend

LOADING_SECONDS: Final = 600.0
"""A model that is not there after so long never will be: many times what a large one takes from a slow disk."""

CancelFlag = threading.Event
"""Set when nobody waits for the batch any more; an engine that can stop in the middle looks at it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a window is to be decoded. ``language`` ``None``: detect it.

    ``temperature`` above 0 asks for another reading of a window whose first one failed its checks: the further from 0,
    the less like the first. What is read depends on the window and its options alone, so an engine draws samples only
    where it can seed them by the window; else it decodes in another way that draws none.

    ``before`` is what was said just before the window, which helps to go on in the same way; an engine takes as much of
    its end as it has room for, behind all of ``prompt``.

    ``short``: the encoder may be given less than 30 s, by a model that was measured to hear as well; others ignore it.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str | None = None
    before: str | None = None
    beam: int = 5
    temperature: float = 0.0
    short: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """At most 30 s of speech of one track. ``samples``: float32, shape (n,), mono, 16 000 Hz, −1 … 1."""

    samples: NDArray[np.float32]
    options: Options = Options()

    @property
    def seconds(self) -> float:
        return len(self.samples) / 16_000


@dataclass(frozen=True, slots=True)
class DraftWord:
    """Times are seconds from the window's start. ``word`` carries the space before it, if the language has one."""

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Draft:
    """What an engine heard in one window. No speech: no words, and ``text`` empty. Fields it cannot give are None.

    From an engine that gives no times of words: ``text`` alone. ``cut``: the engine's limit of tokens came before the
    end of what was said.
    """

    text: str
    words: tuple[DraftWord, ...]
    language: str
    language_probability: float | None
    avg_logprob: float | None
    no_speech_prob: float | None
    compression_ratio: float | None
    temperature: float | None = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class WindowError:
    """One window that the engine could not do; its neighbours in the batch are not touched."""

    detail: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the loaded model can do, and how it wants to be fed.

    ``lanes``: how many threads may call ``run`` at once. ``bytes_per_item``: what one prepared window takes until it
    is done. ``languages``: codes it knows. ``words``: whether it gives times of words. ``restart_seconds``: how long
    ``run`` may wait for a lane that was lost before it begins.
    """

    lanes: int
    max_batch: int
    languages: frozenset[str]
    words: bool
    translate: bool
    prompt: bool
    cancellable: bool
    bytes_per_item: int
    restart_seconds: float = 0.0


class BatchTooBig(Exception):
    """The device has no memory for so many windows at once; fewer may fit."""


class LaneLost(Exception):
    """The process of a lane ended or hung. Its batch is not done; the lane is back before its next one."""


class Engine(Protocol):
    """Never called from the event loop; each lane calls ``run`` from a thread of its own, others ``prepare``.

    The same window with the same options gives the same draft, alone or in company.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def info(self) -> EngineInfo: ...

    def prepare(self, window: Window) -> Any:
        """Features of a window; thread-safe; keeps no reference to the samples unless it needs them."""

    def batch_key(self, item: Any) -> Hashable:
        """What must be equal within one batch."""

    def cost(self, item: Any) -> float:
        """Expected engine seconds."""

    def run(self, batch: Sequence[Any], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        """One result an item, in order. Raises ``EngineLost`` when the device is gone, ``BatchTooBig``, ``LaneLost``;
        other errors are the batch's."""

    def unload(self) -> None:
        """Take the model out of memory until ``reload``. Nothing runs meanwhile; ``prepare`` still works."""

    def reload(self) -> None:
        """Bring the model back; takes as long as loading it. Raises ``EngineLost`` when it cannot be had any more."""

    def close(self) -> None:
        """Give the memory back, for good."""


def load(settings: EngineSettings) -> Engine:
    """Load the configured engine; an engine's file name is its config value, and only that file is imported.

    Takes seconds and may download: call it from a thread. Raises ``ConfigError`` with one sentence on what to do.
    """
    backend = choose_backend(settings.backend)
    chosen = settings.model_copy(update={"backend": backend})
    module = "isolated" if settings.isolation == "process" else backend
    try:
        return cast("Engine", import_module(f"stages.engines.{module}").load(chosen))
    except ImportError as error:
        raise ConfigError(
            f"ENGINE__BACKEND={backend} needs the package {error.name!r}, which is not installed; "
            f"{INSTALL.get(backend, 'install it')}, or set another ENGINE__BACKEND."
        ) from error
