"""What is said of a window before anything is heard in it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.engines import Options, Window
from stages.engines.windows import flaw, nothing, translates

SECOND = np.zeros(16_000, np.float32)


@pytest.mark.parametrize(
    ("language", "multilingual", "said", "probability"),
    [("de", True, "de", None), (None, True, "en", 0.0), ("de", False, "en", None), (None, False, "en", None)],
)
def test_silence_is_in_the_language_told_unless_the_model_knows_english_alone(
    language: str | None, multilingual: bool, said: str, probability: float | None
) -> None:
    draft = nothing(Options(language, temperature=0.4), multilingual=multilingual)
    assert (draft.text, draft.language, draft.language_probability, draft.temperature) == ("", said, probability, 0.4)


@pytest.mark.parametrize(
    ("samples", "language", "multilingual", "why"),
    [
        (np.zeros(480_001, np.float32), "en", True, "30.0 s long"),
        (np.full(16_000, np.nan, np.float32), "en", True, "not finite"),
        (SECOND, "yue", True, "'base' does not know the language 'yue'"),
        (SECOND, "yue", False, None),
        (SECOND, "en", True, None),
    ],
)
def test_a_flaw_is_said_in_one_sentence(
    samples: NDArray[np.float32], language: str, multilingual: bool, why: str | None
) -> None:
    said = flaw(Window(samples, Options(language)), "base", {"en", "de"}, multilingual=multilingual)
    assert said is None if why is None else why in (said or "")


@pytest.mark.parametrize(
    ("multilingual", "encoder", "decoder", "can"),
    [(True, 6, 6, True), (True, 32, 32, True), (True, 32, 4, False), (False, 6, 6, False)],
    ids=["base", "large-v3", "turbo", "base.en"],
)
def test_a_model_that_was_cut_has_not_learned_to_translate(
    multilingual: bool, encoder: int, decoder: int, can: bool
) -> None:
    assert translates(multilingual=multilingual, encoder_layers=encoder, decoder_layers=decoder) is can
