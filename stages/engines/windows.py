"""What every engine with a Whisper says of a window before it hears anything in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.engines import Draft, Options, Window, WindowError
from stages.engines.frames import FRAMES, HOP

NOBODY: Final = WindowError("Nobody waits for this window any more.")


@dataclass(frozen=True, slots=True)
class Spoken:
    """``probability`` is None when the language was told and not detected."""

    language: str
    probability: float | None


def told(options: Options, *, multilingual: bool) -> Spoken | None:
    """The language, where it need not be detected: a model of English alone hears that, whatever it is told."""
    language = options.language if multilingual else "en"
    return Spoken(language, None) if language else None


def nothing(options: Options, *, multilingual: bool) -> Draft:
    """What is heard in silence; a language that had to be detected there has no evidence."""
    spoken = told(options, multilingual=multilingual) or Spoken("en", 0.0)
    return Draft("", (), spoken.language, spoken.probability, None, None, None, options.temperature)


def flaw(window: Window, model: str, languages: Collection[str], *, multilingual: bool) -> str | None:
    """Why a model that knows these languages cannot do the window, if it cannot."""
    language = window.options.language
    if len(window.samples) > FRAMES * HOP:
        return f"The window is {window.seconds:.1f} s long; Whisper takes 30 s at most."
    if not np.isfinite(window.samples).all():
        return "The window holds samples that are not finite numbers."
    if multilingual and language is not None and language not in languages:
        return f"The model {model!r} does not know the language {language!r}."
    return None


def translates(*, multilingual: bool, encoder_layers: int, decoder_layers: int) -> bool:
    """Whether a model has learned to. One with fewer layers to write than to hear, as turbo, was cut and has not."""
    return multilingual and decoder_layers == encoder_layers
