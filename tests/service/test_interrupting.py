"""Ctrl-C in ``antiphon transcribe``: the job goes with whoever wanted it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest
from anyio.from_thread import start_blocking_portal

from pipeline.store.embedded import EmbeddedPostgres
from tests.service.installation import Installation, until

pytestmark = pytest.mark.postgres

JOBS = "SELECT status FROM antiphon.jobs"
COMING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO antiphon.jobs%'"
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


def test_a_transcription_that_is_interrupted_while_it_is_submitted_leaves_no_job_either(
    installation: Installation, media: Path
) -> None:
    installation.speak(window_seconds=3600.0)
    with installation.serving() as service:
        installation.settings["HTTP__PORT"] = service.address.rpartition(":")[2]
        with installation.started("transcribe", media / "jfk.flac") as started:
            with no_job_comes_in(installation):
                until(lambda: installation.rows(COMING))
                started.process.send_signal(signal.SIGINT)
            assert started.process.wait(30) == 130
            assert installation.rows(JOBS) == []
            assert installation.rows(LEFT) == [{"outcome": "cancelled"}]
            service.process.kill()
            service.ends()


@contextmanager
def no_job_comes_in(installation: Installation) -> Iterator[None]:
    """Whoever adds one waits."""

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with EmbeddedPostgres(installation.data) as server:
            connection = await asyncpg.connect(server.dsn)
            try:
                async with connection.transaction():
                    await connection.execute("LOCK TABLE antiphon.jobs IN SHARE MODE")
                    yield
            finally:
                await connection.close()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(locked()):
        yield


def test_an_interrupted_transcription_leaves_no_job_to_the_next(installation: Installation, media: Path) -> None:
    installation.speak(window_seconds=3600.0)
    with installation.started("transcribe", media / "jfk.flac") as started:
        until(lambda: [path for path in installation.files() if path.suffix == ".pcm"])
        started.process.send_signal(signal.SIGINT)
        assert started.ends() == 130
        assert "Traceback" not in started.log.read_text()
    assert installation.rows(JOBS) == []
