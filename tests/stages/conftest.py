"""What tests of stages share: a claim to work under, the log, and readings as spools hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from pipeline.claim import Claim
from pipeline.jobs import Job
from stages.messages import Bleed, TrackAudio
from tests.stages.making import resampled, sound_of
from tests.stages.transcribing import Samples, pause, spooled, stretch


@pytest.fixture
def claim(make_job: Callable[..., Job], tmp_path: Path) -> Claim:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Claim(make_job(), scratch=scratch)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged so far."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture(scope="session")
def quilter(media: Path) -> Samples:
    """5.86 s, of which the first and last 0.3 s are silent."""
    return resampled(sound_of(media / "leopard_en.flac"))


@pytest.fixture(scope="session")
def sonnets(media: Path) -> Samples:
    """Speech for several windows."""
    return np.tile(resampled(sound_of(media / "sonnet_p001.mp3")), 2)


@pytest.fixture
async def answered(tmp_path: Path, quilter: Samples) -> TrackAudio:
    """Own speech, and from 10 s on a reading that is the voice of track 1:0."""
    audio = await spooled(tmp_path / "answered", quilter, pause(4.14), quilter)
    bleed = Bleed(stretch(10.0, 15.86), "1:0", 0.9)
    return replace(audio, speech=(stretch(0.2, 5.6), stretch(10.2, 15.6)), bleed=(bleed,))
