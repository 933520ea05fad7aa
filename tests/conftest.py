"""What every test may use: the folder of licensed recordings and a job to start from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.jobs import Job, JobRequest, Tenant

MEDIA = Path(__file__).parent / "media"


@pytest.fixture
def media() -> Path:
    return MEDIA


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(**request: object) -> Job:
        asked = JobRequest.model_validate({"media_url": "http://media.test/a.flac", **request})
        return Job(id=uuid4(), tenant=Tenant("acme"), request=asked, created_at=datetime.now(UTC), attempt=1)

    return make
