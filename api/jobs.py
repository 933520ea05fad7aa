"""Submitting a job, and asking how it is: ``/v1/jobs`` and ``/v1/jobs/{id}``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID

import anyio
from quart import Response, request

from api.bodies import Part, Parts, in_time, read_whole, require_at_most
from api.middleware import tenant_jobs
from api.problems import RETRY_AFTER
from api.requests import (
    EngineFacts,
    check_capabilities,
    check_files,
    check_no_source,
    check_source,
    read_request,
    refuse,
)
from api.schemas import JobView, job_path
from pipeline.errors import CapabilityUnsupported, InvalidRequest, Pointed, UnsupportedMediaType
from pipeline.jobs import Job, JobRequest, JobStatus
from pipeline.settings import Settings
from pipeline.store import TenantJobs, Unavailable

# A store that does not answer in this time sweeps what was left by itself, an hour later.
DISCARD_SECONDS: Final = 5.0
TRACEPARENT: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


async def read_job(job_id: UUID) -> Response:
    jobs = tenant_jobs()
    job = await jobs.get(job_id)
    result = await jobs.transcript(job_id) if job.status is JobStatus.COMPLETED else None
    return _json(JobView.of(job, result), 200)


class Submissions:
    """Makes jobs of what clients send, as JSON with a URL or as multipart with files."""

    def __init__(self, settings: Settings, engine: EngineFacts) -> None:
        self._download = settings.download
        self._body_bytes = settings.http.max_body_bytes
        self._max_files = settings.audio.max_tracks
        self._engine = engine

    async def submit_job(self) -> Response:
        if "Idempotency-Key" in request.headers:
            refuse(CapabilityUnsupported, [Pointed("", "This version does not know Idempotency-Key; leave it out.")])
        match request.mimetype:
            case "application/json":
                job = await self._from_json(tenant_jobs())
            case "multipart/form-data":
                job = await self._from_parts(tenant_jobs())
            case _:
                raise UnsupportedMediaType("Send application/json, or multipart/form-data with a file.")
        return _accepted(job)

    async def _from_json(self, jobs: TenantJobs) -> Job:
        asked = read_request(await read_whole(self._body(), self._body_bytes))
        check_source(asked, self._download)
        check_capabilities(asked, self._engine)
        return await jobs.submit(asked, trace=_trace())

    async def _from_parts(self, jobs: TenantJobs) -> Job:
        """Parts come in any order. Whatever goes wrong, also a client that goes away: what has arrived is erased."""
        uploads: list[UUID] = []
        try:
            asked = await self._receive(jobs, uploads)
            return await jobs.submit(asked, uploads=uploads, trace=_trace())
        except BaseException:
            with anyio.move_on_after(DISCARD_SECONDS, shield=True), suppress(Unavailable):
                await jobs.discard(uploads)
            raise

    async def _receive(self, jobs: TenantJobs, uploads: list[UUID]) -> JobRequest:
        """The files go to the end of ``uploads``. One too many is refused before it is stored."""
        asked: JobRequest | None = None
        async for part in Parts(self._body(), request.mimetype_params.get("boundary", "")):
            match part.name:
                case "file":
                    check_files(len(uploads) + 1, asked, self._max_files)
                    uploads.append(await self._store(jobs, part))
                case "request" if asked is None:
                    asked = await self._read_part(part)
                    check_files(len(uploads), asked, self._max_files)
                case name:
                    refuse(InvalidRequest, [Pointed(f"/{name}", "Send parts 'file' and at most one 'request'.")])
        if not uploads:
            refuse(InvalidRequest, [Pointed("/file", "This part is required.")])
        asked = asked or JobRequest()
        check_files(len(uploads), asked, self._max_files)
        return asked

    def _body(self) -> AsyncIterator[bytes]:
        return in_time(request.body, self._download.stall_seconds)

    async def _read_part(self, part: Part) -> JobRequest:
        asked = read_request(await read_whole(part, self._body_bytes))
        check_no_source(asked)
        check_capabilities(asked, self._engine)
        return asked

    async def _store(self, jobs: TenantJobs, part: Part) -> UUID:
        size = 0
        async with jobs.upload() as upload:
            async for piece in part:
                size += len(piece)
                require_at_most(size, self._download.max_bytes)
                await upload.write(piece)
            return upload.id


def _accepted(job: Job) -> Response:
    answer = _json(JobView.of(job), 202)
    answer.headers["Location"] = job_path(job)
    answer.headers["Retry-After"] = RETRY_AFTER
    return answer


def _json(view: JobView, status: int) -> Response:
    return Response(view.model_dump_json(), status=status, content_type="application/json")


def _trace() -> Mapping[str, str] | None:
    given = request.headers.get("traceparent", "")
    return {"traceparent": given} if TRACEPARENT.fullmatch(given) else None
