"""A client of our own door: submits a recording, follows its job, brings the transcript."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import httpx2
from pydantic import BaseModel

from pipeline.jobs import JobRequest, JobStatus, Progress
from pipeline.transcript import Notice

POLL_SECONDS: Final = 0.2
TIMEOUT: Final = httpx2.Timeout(60.0)


class Trouble(BaseModel):
    """What a person needs to know of a problem."""

    title: str
    detail: str

    def __str__(self) -> str:
        return self.detail if self.detail.startswith(self.title) else f"{self.title}: {self.detail}"


class Refused(Exception):
    """The request was refused, or its job failed."""


class _Job(BaseModel):
    id: str
    status: JobStatus
    progress: Progress
    error: Trouble | None
    warnings: tuple[Notice, ...]


class Client:
    """Every method raises ``Refused`` with the problem's title and detail, ``httpx2.HTTPError`` without an answer."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def connected(cls, address: str, token: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT, trust_env=False) as http:
            yield cls(http)

    async def submit(self, request: JobRequest, files: Sequence[Path], key: str) -> str:
        """Queue ``files``, or without any the request's ``media_url``; the job's id, which is the same with this
        ``key`` however often it is sent."""
        keyed = {"Idempotency-Key": key}
        body = request.model_dump_json(exclude_defaults=True)
        if not files:
            answer = await self._http.post(
                "/v1/jobs", content=body, headers={"Content-Type": "application/json", **keyed}
            )
        else:
            with ExitStack() as opened:
                contents = [opened.enter_context(await anyio.to_thread.run_sync(io.FileIO, file)) for file in files]
                tracks = [("file", (file.name, content)) for file, content in zip(files, contents, strict=True)]
                request_part = ("request", (None, body.encode(), "application/json"))
                answer = await self._http.post("/v1/jobs", files=[request_part, *tracks], headers=keyed)
        return _Job.model_validate_json(_good(answer).content, extra="ignore").id

    async def follow(self, job_id: str, tell: Callable[[Progress], None]) -> tuple[Notice, ...]:
        """The warnings of the job, when it is completed; ``tell`` hears of its progress."""
        while True:
            answer = _good(await self._http.get(f"/v1/jobs/{job_id}"))
            job = _Job.model_validate_json(answer.content, extra="ignore")
            tell(job.progress)
            if job.status is JobStatus.COMPLETED:
                return job.warnings
            if job.status.ended:
                raise Refused(str(job.error or f"The job was {job.status}."))
            await anyio.sleep(POLL_SECONDS)

    async def delete(self, job_id: str) -> None:
        _good(await self._http.delete(f"/v1/jobs/{job_id}"))

    async def transcript(self, job_id: str, form: str) -> str:
        return _good(await self._http.get(f"/v1/jobs/{job_id}/transcript", params={"format": form})).text


async def answers(address: str) -> bool:
    """Whether the service is ready at ``address``."""
    try:
        async with httpx2.AsyncClient(base_url=address, timeout=2.0, trust_env=False) as http:
            answer = await http.get("/readyz")
            return answer.status_code == httpx2.codes.OK and answer.json() == {"status": "ok"}
    except (httpx2.HTTPError, ValueError):
        return False


def _good(answer: httpx2.Response) -> httpx2.Response:
    if answer.is_success:
        return answer
    try:
        raise Refused(str(Trouble.model_validate_json(answer.content, extra="ignore")))
    except ValueError:
        raise Refused(f"The service answered {answer.status_code}.") from None
