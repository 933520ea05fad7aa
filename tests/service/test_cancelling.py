"""A running job that its client no longer wants stops at once, whichever replica was told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.installation import Installation, Service, until

pytestmark = pytest.mark.postgres

FOR_EVER = 3600.0


def busy(service: Service) -> bool:
    return any(stage["active"] for stage in service.http.get("/v1/engine").json()["stages"])


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_replica_hears_what_another_was_told(installation: Installation, media: Path, end: str) -> None:
    # No beat comes within the test.
    installation.settings |= {"QUEUE__LEASE_SECONDS": "1200", "QUEUE__HEARTBEAT_SECONDS": "600"}
    installation.speak(window_seconds=FOR_EVER)
    with installation.serving() as worker:
        job_id = worker.submit(media / "jfk.flac")
        worker.begun(job_id)
        until(lambda: busy(worker))
        with installation.serving() as other:
            if end == "cancel":
                other.http.post(f"/v1/jobs/{job_id}/cancel")
                assert worker.ended(job_id)["status"] == "cancelled"
            else:
                assert other.http.delete(f"/v1/jobs/{job_id}").status_code == 204
                assert worker.http.get(f"/v1/jobs/{job_id}").status_code == 404
            until(lambda: not busy(worker))
            until(lambda: not installation.files())
            for service in (other, worker):
                service.process.terminate()
                assert service.ends() == 0
