"""An installation of its own for a test: a data directory, settings, and the command that uses both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import httpx2
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr

from api.security import issue_token
from pipeline.jobs import Tenant
from pipeline.settings import AuthSettings
from pipeline.store.embedded import EmbeddedPostgres

COMMAND: Final = str(Path(sys.executable).with_name("antiphon"))
# Far above what anything here takes, also on a busy machine.
PATIENCE: Final = 30.0
POLL_SECONDS: Final = 0.02
WHISPER: Final = {"ENGINE__BACKEND": "faster_whisper", "ENGINE__MODEL": "base"}
SPOKEN: Final = "The quick brown fox jumps over the lazy dog."

Found = TypeVar("Found")


def until(look: Callable[[], Found | None]) -> Found:
    """What ``look`` finds, as soon as it finds anything."""
    give_up_at = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < give_up_at, "This never came about."
        time.sleep(POLL_SECONDS)
    return found


@dataclass
class Installation:
    """Speaks through the mock engine, unless ``settings`` say otherwise."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self.speak()

    def speak(self, **script: object) -> None:
        """The script of the mock engine, for the next start."""
        (self.folder / "script.json").write_text(json.dumps({"lines": [SPOKEN], **script}))

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CACHE_HOME") if name in os.environ}
        ours = {"DATA_DIR": str(self.data), "HTTP__PORT": "0", "QUEUE__RETRY_SECONDS": "0.1"}
        engine = {"ENGINE__BACKEND": "mock", "ENGINE__MODEL": str(self.folder / "script.json")}
        media = {"DOWNLOAD__ALLOW_NETWORKS": "127.0.0.0/8", "DOWNLOAD__ALLOW_PORTS": ""}
        return {**kept, **ours, **engine, **media, **self.settings}

    @property
    def secret(self) -> str:
        """What tokens are signed with; a service that is given no secret makes one when it starts."""
        return self.settings.get("AUTH__SECRET") or (self.data / "secret").read_text()

    def run(self, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            env={**self.environment, **settings},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=PATIENCE,
        )

    @contextmanager
    def started(self, *arguments: str | Path) -> Iterator[Started]:
        """The command in the background; killed at the end where it still runs."""
        log = self.folder / f"log-{time.monotonic_ns()}"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [COMMAND, *map(str, arguments)],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            yield Started(process, log)
        finally:
            process.kill()
            process.wait()
            self.wait_for_silence()

    @contextmanager
    def serving(self) -> Iterator[Service]:
        """The service, ready, and a client of the tenant ``acme``."""
        with self.started("serve") as started:
            address = str(until(lambda: started.event("service-ready"))["address"])
            token = issue_token(AuthSettings(secret=SecretStr(self.secret)), Tenant("acme"), seconds=3600)
            headers = {"Authorization": f"Bearer {token}"}
            with httpx2.Client(base_url=address, headers=headers, timeout=PATIENCE, trust_env=False) as http:
                yield Service(started.process, started.log, address, token, http)

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """What the database holds, past row-level security; also when no service runs."""

        async def fetch() -> list[dict[str, Any]]:
            async with EmbeddedPostgres(self.data) as server:
                connection = await asyncpg.connect(server.dsn)
                try:
                    return [dict(row) for row in await connection.fetch(statement, *values)]
                finally:
                    await connection.close()

        with start_blocking_portal() as portal:
            return portal.call(fetch)

    def files(self) -> list[Path]:
        """Media and audio that lie in scratch."""
        return [path for path in (self.data / "scratch").rglob("*") if path.is_file()]

    def processes(self) -> dict[int, str]:
        """PostgreSQL and its watchdog, by number: all that has our data directory in its command line."""
        shown = subprocess.run(
            ["ps", "-ww", "-A", "-o", "pid=,command="], capture_output=True, check=True, text=True
        ).stdout
        lines = (line.split(maxsplit=1) for line in shown.splitlines() if str(self.data) in line)
        return {int(number): command for number, command in lines}

    def wait_for_silence(self) -> None:
        """Nothing that was started here runs any more."""
        until(lambda: not self.processes())


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[bytes]
    log: Path

    def event(self, name: str) -> dict[str, Any] | None:
        """The first of that name in the log."""
        assert self.process.poll() is None, self.log.read_text()
        whole = self.log.read_text().rpartition("\n")[0].splitlines()
        told = (json.loads(line) for line in whole if line.startswith("{"))
        return next((event for event in told if event["event"] == name), None)

    def ends(self) -> int:
        """The exit code, once there is one."""
        return self.process.wait(PATIENCE)


@dataclass(frozen=True)
class Service(Started):
    address: str
    token: str
    http: httpx2.Client

    def submit(self, *media: Path | str, **request: object) -> str:
        """Of files, by upload, or of a URL; the job's id."""
        files = [file for file in media if isinstance(file, Path)]
        answer = self.upload(*files, **request) if files else self.post(str(media[0]), **request)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def upload(self, *media: Path, **request: object) -> httpx2.Response:
        asked = ("request", (None, json.dumps(request).encode(), "application/json"))
        return self.http.post("/v1/jobs", files=[asked, *(("file", (file.name, file.read_bytes())) for file in media)])

    def post(self, url: str, **request: object) -> httpx2.Response:
        return self.http.post("/v1/jobs", json={"media_url": url, **request})

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def begun(self, job_id: str) -> None:
        """Wait until a worker has a job."""
        until(lambda: self.job(job_id)["status"] == "running")

    def ended(self, job_id: str) -> dict[str, Any]:
        """A job, once it has ended in whatever way."""
        return until(lambda: job if (job := self.job(job_id))["completed_at"] else None)

    def completed(self, job_id: str) -> dict[str, Any]:
        job = self.ended(job_id)
        assert job["status"] == "completed", job["error"]
        return job

    def transcript(self, job_id: str, form: str = "text") -> str:
        answer = self.http.get(f"/v1/jobs/{job_id}/transcript", params={"format": form})
        assert answer.status_code == 200, answer.text
        return answer.text
