"""Lanes in processes of their own, under load: what becomes of the service when one of them is killed, or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.installation import SPOKEN, Installation, Service, until

pytestmark = pytest.mark.postgres

LANES = 2
ASK_SECONDS = 0.2


@pytest.fixture
def isolating(installation: Installation) -> Installation:
    installation.settings |= {"ENGINE__ISOLATION": "process", "ENGINE__THREADS": str(LANES), "ENGINE__MAX_BATCH": "4"}
    return installation


def lanes(service: Service) -> set[int]:
    """The processes of the lanes, by number."""
    shown = subprocess.run(
        ["ps", "-ww", "-A", "-o", "pid=,ppid=,command="], capture_output=True, check=True, text=True
    ).stdout
    rows = (line.split(maxsplit=2) for line in shown.splitlines() if "multiprocessing.spawn" in line)
    return {int(number) for number, parent, _ in rows if int(parent) == service.process.pid}


def running() -> set[int]:
    """All processes but those that have ended and whom nobody has asked how."""
    shown = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, check=True, text=True).stdout
    rows = (line.split() for line in shown.splitlines())
    return {int(number) for number, state in rows if not state.startswith("Z")}


def submitted(service: Service, media: Path, count: int) -> list[str]:
    clips = sorted(media.glob("*_*.flac"))[:4]
    with ThreadPoolExecutor(4) as clients:
        return list(clients.map(lambda n: service.submit(clips[n % len(clips)]), range(count)))


@contextmanager
def answering(service: Service, job_id: str) -> Iterator[None]:
    """All the while, the service says that it lives, and how a job stands."""
    over = threading.Event()

    def ask() -> set[int]:
        codes = {200}
        while not over.wait(ASK_SECONDS):
            codes |= {service.http.get(path).status_code for path in ("/livez", f"/v1/jobs/{job_id}")}
        return codes

    with ThreadPoolExecutor(1) as client:
        codes = client.submit(ask)
        try:
            yield
        finally:
            over.set()
        assert codes.result() == {200}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_lane_that_is_lost_under_load_costs_no_job_and_no_answer(
    isolating: Installation, media: Path, sent: signal.Signals
) -> None:
    isolating.settings["ENGINE__STALL_SECONDS"] = "10"
    isolating.speak(window_seconds=0.5)
    with isolating.serving() as service:
        jobs = submitted(service, media, 16)
        with answering(service, jobs[-1]):
            until(lambda: any(service.job(job_id)["status"] == "running" for job_id in jobs))
            lost = min(lanes(service))
            os.kill(lost, sent)
            until(lambda: lost not in (now := lanes(service)) and len(now) == LANES)
            completed = [service.completed(job_id) for job_id in jobs]
        assert {job["attempt"] for job in completed} == {1}
        assert {service.transcript(job_id) for job_id in jobs} == {f"{SPOKEN}\n"}
        assert service.event("lane-ended")
        service.process.terminate()
        assert service.ends() == 0


def test_a_job_that_kills_every_lane_fails_and_its_neighbours_complete(isolating: Installation, media: Path) -> None:
    isolating.settings["QUEUE__MAX_ATTEMPTS"] = "1"
    isolating.speak(window_seconds=0.2, faults=[{"mark": "deadly", "kind": "crash"}])
    with isolating.serving() as service:
        before = submitted(service, media, 4)
        deadly = service.submit(media / "jfk.flac", prompt="deadly")
        after = submitted(service, media, 4)
        with answering(service, deadly):
            failed = service.ended(deadly)
            completed = [service.completed(job_id) for job_id in before + after]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "engine-failed")
    assert {job["attempt"] for job in completed} == {1}


def test_no_lane_outlives_its_service(isolating: Installation) -> None:
    with isolating.serving() as service:
        left = lanes(service)
        assert len(left) == LANES
        service.process.kill()
        service.ends()
        until(lambda: not left & running())
