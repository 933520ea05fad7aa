"""The database goes away for longer than a lease and comes back: no crash, no job lost, and everything resumes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.embedded.binaries import find_binaries
from pipeline.store.embedded.cluster import Cluster
from tests.service.installation import Installation, until

pytestmark = pytest.mark.postgres


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server that is not the installation's own; it keeps its port when it is started again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    home = tmp_path / "server"
    home.mkdir(mode=0o700)
    cluster = Cluster(home, find_binaries(None), port)
    cluster.start()
    yield cluster
    cluster.stop()


def test_a_service_outlives_its_database(installation: Installation, cluster: Cluster, media: Path) -> None:
    installation.settings |= {"QUEUE__LEASE_SECONDS": "2", "QUEUE__HEARTBEAT_SECONDS": "0.5"}
    installation.settings["DATABASE__DSN"] = str(cluster.dsn())
    installation.speak(window_seconds=1.0, max_batch=1)
    with installation.serving() as service:
        jobs = [service.submit(media / "jfk.flac") for _ in range(3)]
        service.begun(jobs[0])
        cluster.stop()
        away = until(lambda: ask if (ask := service.http.get("/readyz")).status_code == 503 else None)
        assert "database" in away.json()["detail"]
        assert service.http.get("/livez").status_code == 200
        assert service.http.get(f"/v1/jobs/{jobs[0]}").status_code == 503
        until(lambda: service.event("lease-lost"))
        cluster.start()
        until(lambda: service.http.get("/readyz").status_code == 200)
        ended = [service.completed(job) for job in jobs]
        assert sum(job["attempt"] for job in ended) > len(jobs)  # it bit: some were begun again
        service.process.terminate()
        assert service.ends() == 0
