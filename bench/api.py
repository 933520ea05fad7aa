"""How soon the door answers while the engine takes all of the machine that it can get.

this process ── GET /livez every 20 ms, timed ──▶ antiphon serve, a process of its own
             ── a backlog of recordings ────────▶
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from secrets import token_hex
from statistics import median, quantiles
from time import perf_counter
from typing import Final
from uuid import uuid4

import anyio
import httpx2
from pydantic import SecretStr

from api.client import Client, answers
from api.security import issue_token
from bench import RECORDINGS, Benchmark, Unmeasured
from bench.figures import Figure, Report
from pipeline.jobs import JobRequest, Tenant
from pipeline.settings import Settings

VARIED: Final = ("jfk.flac", "sonnet_p001.mp3", "leopard_de.flac", "austen_0870.flac", "sonnet_clip.mp4")
EVERY: Final = 0.02  # seconds between two requests
TARGET: Final = 50.0  # ms
REPETITIONS: Final = 3
PATIENCE: Final = 60.0  # seconds for the service to start, and to end


@dataclass(frozen=True, slots=True)
class Service:
    port: int
    token: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def times(self, requests: int) -> list[float]:
        """Milliseconds until each of so many answers, over one connection kept open.

        Counted from when the request was due: one slow answer delays those behind it, as it would other people's.
        """
        taken = []
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            began = perf_counter()
            for n in range(requests):
                due = began + n * EVERY
                time.sleep(max(0.0, due - perf_counter()))
                connection.request("GET", "/livez")
                if (answer := connection.getresponse()).status != 200:
                    raise Unmeasured(f"GET /livez was answered with {answer.status}.")
                answer.read()
                taken.append(1000 * (perf_counter() - due))
        return taken

    async def fill(self, jobs: int) -> str:
        """Queue so many recordings and see the first one done; the id of the last one."""
        async with Client.connected(self.address, self.token) as client:
            ids = [
                await client.submit(JobRequest(), [RECORDINGS / name], str(uuid4()))
                for name in islice(cycle(VARIED), jobs)
            ]
            await client.follow(ids[0], lambda _: None)
        return ids[-1]

    def status(self, job_id: str) -> str:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx2.get(f"{self.address}/v1/jobs/{job_id}", headers=headers, trust_env=False)
        return str(answer.raise_for_status().json()["status"])


@dataclass(frozen=True, slots=True)
class Repetition:
    """Milliseconds until an answer: with nothing else to do, and with the engine at work."""

    idle: Sequence[float]
    busy: Sequence[float]


def run(quick: bool) -> Report:
    requests, jobs, repetitions = (500, 30, 1) if quick else (1500, 80, REPETITIONS)
    settings = Settings()
    measured = [_measure(settings, requests, jobs) for _ in range(repetitions)]
    told = {
        "engine": f"{settings.engine.backend} {settings.engine.model}",
        "requests": f"{requests} on one connection, one every {1000 * EVERY:g} ms",
        "media": ", ".join(VARIED),
    }
    return Report("api", told, list(_figures(measured)))


def _measure(settings: Settings, requests: int, jobs: int) -> Repetition:
    with tempfile.TemporaryDirectory() as folder, _serving(settings, Path(folder)) as service:
        idle = service.times(requests)
        last = anyio.run(service.fill, jobs)
        busy = service.times(requests)
        if service.status(last) != "pending":
            raise Unmeasured(f"{jobs} jobs were done before {requests} requests were.")
        return Repetition(idle, busy)


def _figures(measured: Sequence[Repetition]) -> Iterator[Figure]:
    yield Figure("GET /livez idle, median", [median(one.idle) for one in measured], "ms")
    yield Figure("GET /livez idle, 99th percentile", [_p99(one.idle) for one in measured], "ms")
    yield Figure("GET /livez while transcribing, median", [median(one.busy) for one in measured], "ms")
    yield Figure(
        "GET /livez while transcribing, 99th percentile", [_p99(one.busy) for one in measured], "ms", at_most=TARGET
    )
    yield Figure("GET /livez while transcribing, slowest", [max(one.busy) for one in measured], "ms")


def _p99(times: Sequence[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[-1]


@contextmanager
def _serving(settings: Settings, folder: Path) -> Iterator[Service]:
    """The service as it is configured, but with a port, a key and a database of its own."""
    key = token_hex(32)
    auth = settings.auth.model_copy(update={"secret": SecretStr(key)})
    service = Service(_free_port(), issue_token(auth, Tenant("bench"), seconds=3600))
    own = {"DATA_DIR": str(folder), "HTTP__HOST": "127.0.0.1", "HTTP__PORT": str(service.port)}
    own |= {"AUTH__SECRET": key, "SHUTDOWN__GRACE_SECONDS": "0"}
    inherited = {name: value for name, value in os.environ.items() if name.upper() != "DATABASE__DSN"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "api", "serve"], env=inherited | own, stderr=log)
    try:
        _await_ready(service, process)
        yield service
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _await_ready(service: Service, process: subprocess.Popen[bytes]) -> None:
    patience = perf_counter() + PATIENCE
    while not anyio.run(answers, service.address):
        if process.poll() is not None or perf_counter() > patience:
            raise Unmeasured("The service did not start; `antiphon serve` with the same settings says why.")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


BENCHMARK: Final = Benchmark(
    "api",
    "how soon GET /livez is answered while the real engine transcribes",
    f"99th percentile ≤ {TARGET:g} ms",
    run,
)
