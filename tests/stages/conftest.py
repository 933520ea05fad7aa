"""What tests of single stages share: a claim to work under."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.claim import Claim
from pipeline.jobs import Job


@pytest.fixture
def claim(make_job: Callable[..., Job], tmp_path: Path) -> Claim:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Claim(make_job(), scratch=scratch)
