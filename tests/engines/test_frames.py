"""What the encoder is given of a window: the same frames as of one with silence up to 30 s, or the first of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import EngineSettings
from stages.engines import weights
from stages.engines.frames import FRAMES, LEAST, SILENT, STEP, hears_short_windows, log_mel, short_window
from tests.conformance.engine_suite import Clip


@pytest.mark.parametrize("frames", [FRAMES, 1400])
def test_silence_behind_the_speech_is_as_if_it_had_been_recorded(clip: Callable[[str], Clip], frames: int) -> None:
    samples, extract = clip("jfk"), FeatureExtractor()
    recorded = extract(np.pad(samples, (0, FRAMES * 160 - len(samples))), padding=0)
    assert np.array_equal(log_mel(extract, samples, frames), recorded[:, :frames])


@pytest.mark.weights
@pytest.mark.usefixtures("base")
def test_measured_weights_are_known_by_what_they_hold_and_not_by_their_size(tmp_path: Path) -> None:
    measured = weights.find("base", EngineSettings()) / "model.bin"
    assert hears_short_windows(measured)
    with (other := tmp_path / "model.bin").open("wb") as file:
        file.truncate(measured.stat().st_size)
    assert not hears_short_windows(other)


@given(st.integers(0, FRAMES))
def test_a_short_window_has_silence_behind_its_speech_and_is_never_tiny(frames: int) -> None:
    short = short_window(frames)
    assert short % STEP == 0
    assert LEAST <= short <= FRAMES
    assert short >= min(FRAMES, frames + SILENT)
