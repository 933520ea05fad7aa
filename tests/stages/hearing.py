"""What the demuxer makes of files, as tests listen to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.errors import JobError
from pipeline.jobs import JobRequest
from pipeline.settings import AudioSettings
from stages.demuxer import Demuxer
from stages.messages import Media, TrackAudio
from stages.spool import SAMPLE_RATE


def asking(claim: Claim, **request: Any) -> Claim:
    """A claim of another job, one with this request."""
    asked = JobRequest.model_validate({"processing_mode": "multitrack", **request})
    return Claim(replace(claim.job, request=asked), scratch=claim.scratch)


@asynccontextmanager
async def demuxed(claim: Claim, *paths: Path, audio: AudioSettings | None = None) -> AsyncIterator[list[TrackAudio]]:
    demuxer = Demuxer(audio or AudioSettings())
    async with demuxer.running(), claim.resources:
        yield [track async for track in demuxer.handle(claim, Media(paths))]


async def heard(track: TrackAudio) -> NDArray[np.int16]:
    return await track.spool.read(0, 10**9)


async def refusal(claim: Claim, path: Path, audio: AudioSettings | None = None) -> JobError:
    """Why the demuxer does not take this file."""
    demuxer = Demuxer(audio or AudioSettings())
    async with demuxer.running(), claim.resources:
        with pytest.raises(JobError) as raised:
            [track async for track in demuxer.handle(claim, Media((path,)))]
    return raised.value


def onsets(samples: NDArray[np.int16]) -> list[float]:
    """Where clicks begin, in seconds: loud after 100 ms that were not."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 2500)
    return [int(at) / SAMPLE_RATE for n, at in enumerate(loud) if n == 0 or at - loud[n - 1] > SAMPLE_RATE // 10]


async def mixed(claim: Claim, *paths: Path) -> tuple[NDArray[np.int16], list[str]]:
    """What the one track of these files sounds like, and the codes of its warnings."""
    async with demuxed(claim, *paths) as [track]:
        samples = await heard(track)
        assert track.spool.error is None
        return samples, [notice.code for notice in track.spool.warnings]
