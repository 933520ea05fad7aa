"""Ctrl-C in ``antiphon transcribe``: the job goes with whoever wanted it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.service.installation import Installation, until

pytestmark = pytest.mark.postgres

JOBS = "SELECT status FROM antiphon.jobs"
LEFT = "SELECT outcome FROM antiphon.usage"


def test_an_interrupted_transcription_is_erased_at_the_service_that_had_it(
    installation: Installation, media: Path
) -> None:
    installation.speak(window_seconds=3600.0)
    with installation.serving() as service:
        installation.settings["HTTP__PORT"] = service.address.rpartition(":")[2]
        with installation.started("transcribe", media / "jfk.flac") as started:
            until(lambda: [row["status"] for row in installation.rows(JOBS)] == ["running"])
            started.process.send_signal(signal.SIGINT)
            assert started.process.wait(30) == 130
            assert "Traceback" not in started.log.read_text()
            assert installation.rows(JOBS) == []
            assert installation.rows(LEFT) == [{"outcome": "cancelled"}]
            service.process.kill()  # what was started inside waits for silence before it is over
            service.ends()


def test_an_interrupted_transcription_leaves_no_job_to_the_next(installation: Installation, media: Path) -> None:
    installation.speak(window_seconds=3600.0)
    with installation.started("transcribe", media / "jfk.flac") as started:
        until(lambda: [path for path in installation.files() if path.suffix == ".pcm"])
        started.process.send_signal(signal.SIGINT)
        assert started.ends() == 130
        assert "Traceback" not in started.log.read_text()
    assert installation.rows(JOBS) == []
