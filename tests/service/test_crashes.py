"""Nothing is lost and nothing is done twice, whatever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.service.installation import SPOKEN, Installation, Service, until

pytestmark = pytest.mark.postgres

FOR_EVER = 3600.0
OUTCOMES = "SELECT outcome FROM antiphon.attempts WHERE job_id = $1 ORDER BY ended_at"


def the_service(service: Service, _: Installation) -> None:
    service.process.kill()


def the_service_and_its_database(service: Service, installation: Installation) -> None:
    for number in [service.process.pid, *installation.processes()]:
        os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("kill", [the_service, the_service_and_its_database])
def test_a_job_whose_worker_is_killed_completes_once_after_the_next_start(
    installation: Installation, media: Path, kill: Callable[[Service, Installation], None]
) -> None:
    installation.speak(window_seconds=FOR_EVER)
    with installation.serving() as service:
        job_id = service.submit(media / "jfk.flac")
        service.begun(job_id)
        service.submit(media / "jfk.flac")  # the disk has the claim, too, when it has this
        kill(service, installation)
        service.ends()
        installation.speak()
        with installation.serving() as again:
            job = again.completed(job_id)
            assert installation.rows(OUTCOMES, job_id) == [{"outcome": "lost"}, {"outcome": "completed"}]
            assert again.transcript(job_id) == f"{SPOKEN}\n"
    assert job["attempt"] == 2
    assert job["last_error"]["code"] == "worker-lost"


def test_a_service_whose_database_is_killed_starts_it_again_and_completes_every_job(
    installation: Installation, media: Path
) -> None:
    installation.settings |= {"QUEUE__LEASE_SECONDS": "4", "QUEUE__HEARTBEAT_SECONDS": "0.5"}
    installation.speak(window_seconds=1.0, max_batch=1)
    with installation.serving() as service:
        jobs = [service.submit(media / "jfk.flac") for _ in range(3)]
        service.begun(jobs[0])
        killed = installation.processes()
        for number in killed:
            os.kill(number, signal.SIGKILL)
        until(lambda: service.event("database-died"))
        until(lambda: service.http.get("/readyz").status_code == 200)
        ended = [service.completed(job) for job in jobs]
        assert not killed.keys() & installation.processes().keys()
        assert {service.transcript(job["id"]) for job in ended} == {f"{SPOKEN}\n"}
        outcomes = installation.rows("SELECT job_id FROM antiphon.attempts WHERE outcome = 'completed'")
        assert sorted(str(row["job_id"]) for row in outcomes) == sorted(jobs)
        assert service.http.get("/readyz").status_code == 200
        service.process.terminate()
        assert service.ends() == 0


@pytest.mark.full
def test_a_job_that_kills_its_worker_every_time_fails_in_the_end(installation: Installation, media: Path) -> None:
    installation.settings["QUEUE__MAX_LOSSES"] = "2"
    installation.speak(faults=[{"mark": "deadly", "kind": "lost"}])
    with installation.serving() as service:
        job_id = service.submit(media / "jfk.flac", prompt="deadly")
        assert service.ends() == 1
    with installation.serving() as service:
        assert service.ends() == 1
    with installation.serving() as service:
        job = service.ended(job_id)
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "worker-lost", 2)


def test_ten_jobs_at_once_complete_each_once(installation: Installation, media: Path) -> None:
    installation.speak(window_seconds=0.05)
    clips = sorted(media.glob("*_*.flac"))[:5] * 2
    with installation.serving() as service, ThreadPoolExecutor(len(clips)) as clients:
        jobs = list(clients.map(service.completed, clients.map(service.submit, clips)))
        attempts = installation.rows("SELECT job_id::text, outcome FROM antiphon.attempts")
        assert {service.transcript(job["id"]) for job in jobs} == {f"{SPOKEN}\n"}
    assert sorted(row["job_id"] for row in attempts) == sorted(job["id"] for job in jobs)
    assert {row["outcome"] for row in attempts} == {"completed"}
    assert {job["attempt"] for job in jobs} == {1}
