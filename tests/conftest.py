"""What every test may use: the recordings, a job to start from, and a watch over the event loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from pipeline.jobs import Job, JobRequest, Tenant


def pytest_configure() -> None:
    """A shell that starts the tests in its background has them ignore Ctrl-C, and all that they start with them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops; folders that need asyncio say so in a conftest of their own."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """A blocking call on an asyncio loop, made by our code, fails the test that made it."""
    if "anyio_backend" not in request.fixturenames:
        yield None
        return
    with blockbuster_ctx(scanned_modules=["pipeline", "stages", "api"]) as blockbuster:
        # asyncpg looks for client certificates and a password file in the home folder before it connects.
        for name in ("os.path.abspath", "os.stat", "io.TextIOWrapper.read"):
            blockbuster.functions[name].can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
        # Prometheus reads /proc, which never waits for a disk.
        for name in ("io.BufferedReader.read", "os.stat", "os.listdir"):
            blockbuster.functions[name].can_block_in("prometheus_client/process_collector.py", "collect")
        yield blockbuster


@pytest.fixture(scope="session")
def media() -> Path:
    """Real recordings; ``manifest.tsv`` there says whose, and what is said in them."""
    return Path(__file__).parent / "media"


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(**request: object) -> Job:
        asked = JobRequest.model_validate({"media_url": "http://media.test/a.flac", **request})
        return Job(id=uuid4(), tenant=Tenant("acme"), request=asked, created_at=datetime.now(UTC), attempt=1)

    return make
