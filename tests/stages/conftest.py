"""What tests of stages share: a claim to work under, and the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from pipeline.claim import Claim
from pipeline.jobs import Job


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
