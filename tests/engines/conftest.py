"""Recordings as samples, and Whisper's weights, fetched once into the user's cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from av import AudioFrame
from av import open as open_media
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import Engine, load, weights
from stages.engines.catalogue import Form

Clip = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def clip(media: Path) -> Callable[[str], Clip]:
    """A recording by its file's name without ending: float32, shape (n,), mono, 16 000 Hz, −1 … 1."""

    def decode(name: str) -> Clip:
        resampler = AudioResampler("s16", "mono", 16_000)
        with open_media(str(media / f"{name}.flac")) as container:
            frames: list[AudioFrame | None] = [*container.decode(audio=0), None]
        samples = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
        return np.concatenate(samples).astype(np.float32) / np.float32(32_768)

    return decode


def _weights(model: str) -> Path:
    try:
        return weights.find(model, EngineSettings())
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_en_weights() -> Path:
    return _weights("tiny.en")


@pytest.fixture(scope="session")
def base_weights() -> Path:
    return _weights("base")


def _converted(form: Form) -> Path:
    """Whisper base as the conversion tool makes it; kept in the user's cache like what is fetched."""
    _weights("base")
    tool = ROOT / "scripts/convert-weights.py"
    run([sys.executable, str(tool), "base", "--to", form], check=True)
    return weights.find("base", EngineSettings(offline=True), form)


@pytest.fixture(scope="session")
def base_pt() -> Path:
    pytest.importorskip("torch")
    return _converted("pt")


@pytest.fixture(scope="session")
def base_ggml() -> Path:
    return _converted("ggml")


@pytest.fixture(scope="session")
def base() -> Iterator[Engine]:
    _weights("base")
    engine = load(EngineSettings(model="base", device="cpu"))
    yield engine
    engine.close()
