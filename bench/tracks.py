"""A file's tracks as the demuxer makes them for benchmarks: every stream a track, nothing looked for between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from pipeline.claim import Claim
from pipeline.jobs import Job, JobRequest, Tenant
from pipeline.settings import AudioSettings
from stages.demuxer import Demuxer
from stages.messages import Media, TrackAudio

REQUEST: Final = JobRequest(
    media_url="http://media.test/tracks", processing_mode="multitrack", split_channels="never", crosstalk="off"
)


@asynccontextmanager
async def demuxed(path: Path, scratch: Path) -> AsyncGenerator[list[TrackAudio], None]:
    """They still grow; when the block is left, decoding has stopped. Their spools are left in ``scratch``."""
    job = Job(id=uuid4(), tenant=Tenant("bench"), request=REQUEST, created_at=datetime.now(UTC), attempt=1)
    claim, demuxer = Claim(job, scratch=scratch), Demuxer(AudioSettings())
    async with demuxer.running(), claim.resources:
        yield [track async for track in demuxer.handle(claim, Media((path,)))]
