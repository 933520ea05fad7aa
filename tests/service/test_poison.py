"""A recording that kills its worker every time ends alone: what was beside it completes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.server import free_port
from tests.service.installation import Installation, Service, until

pytestmark = pytest.mark.postgres

NEIGHBOURS = 7
MAX_LOSSES = 3
OUTCOMES = "SELECT job_id::text, outcome FROM antiphon.attempts"

Jobs = dict[str, dict[str, Any]]


@pytest.mark.parametrize("kind", ["crash", pytest.param("lost", marks=pytest.mark.full)])
def test_a_file_that_kills_its_worker_ends_as_worker_lost_and_its_seven_neighbours_complete(
    installation: Installation, media: Path, kind: str
) -> None:
    installation.settings |= {"HTTP__PORT": str(free_port()), "QUEUE__MAX_LOSSES": str(MAX_LOSSES)}
    deadly, holding = {"mark": "deadly", "kind": kind}, {"mark": "meek", "kind": "hang"}
    # A lane for each: the neighbours stay in theirs for as long as the process lives.
    installation.speak(lanes=NEIGHBOURS + 1, max_batch=1, faults=[deadly, holding])
    with installation.serving() as service:
        neighbours = [service.submit(media / "austen_0880.flac", prompt="meek") for _ in range(NEIGHBOURS)]
        for job_id in neighbours:
            service.begun(job_id)
        poison = service.submit(media / "austen_0880.flac", prompt="deadly")
        service.ends()
    installation.speak(faults=[deadly])
    jobs = supervised(installation, service, [poison, *neighbours])

    assert (jobs[poison]["status"], jobs[poison]["error"]["code"]) == ("failed", "worker-lost")
    assert {jobs[job_id]["status"] for job_id in neighbours} == {"completed"}
    ends = Counter((row["job_id"], row["outcome"]) for row in installation.rows(OUTCOMES))
    assert ends[poison, "lost"] == MAX_LOSSES
    assert {(ends[job_id, "lost"], ends[job_id, "completed"]) for job_id in neighbours} == {(1, 1)}


def supervised(installation: Installation, first: Service, job_ids: Sequence[str]) -> Jobs:
    """The jobs, once all have ended, of a service that is started again whenever it dies."""
    headers, jobs = {"Authorization": f"Bearer {first.token}"}, Jobs()
    with httpx2.Client(base_url=first.address, headers=headers, trust_env=False) as http:

        def ended_or_dead() -> bool:
            jobs.update(ended(http, job_ids))
            return bool(jobs) or started.process.poll() is not None

        for _ in range(MAX_LOSSES):
            with installation.started("serve") as started:
                until(ended_or_dead)
            if jobs:
                return jobs
    raise AssertionError("The service died more often than a job may lose its worker.")


def ended(http: httpx2.Client, job_ids: Sequence[str]) -> Jobs:
    """All of them, or none while one has not ended."""
    try:
        jobs = [http.get(f"/v1/jobs/{job_id}").raise_for_status().json() for job_id in job_ids]
    except httpx2.HTTPError:  # the service is starting, or has just died
        return {}
    return {job["id"]: job for job in jobs} if all(job["completed_at"] for job in jobs) else {}
