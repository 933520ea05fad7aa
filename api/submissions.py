"""Submitting a job: ``POST /v1/jobs``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import anyio
from quart import Response, request

from api.bodies import Part, Parts, in_time, read_whole, require_at_most
from api.idempotency import key_name, key_of
from api.middleware import tenant_jobs
from api.problems import RETRY_AFTER
from api.requests import (
    EngineFacts,
    check_callback,
    check_capabilities,
    check_files,
    check_no_source,
    check_source,
    read_request,
    refuse,
)
from api.schemas import JobView, answered
from pipeline.errors import InvalidRequest, Pointed, UnsupportedMediaType
from pipeline.jobs import Job, JobRequest
from pipeline.settings import Settings
from pipeline.store import KeyUsed, TenantJobs, Unavailable

# A store that does not answer in this time sweeps what was left by itself, an hour later.
DISCARD_SECONDS: Final = 5.0
TRACEPARENT: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


@dataclass(slots=True)
class _Files:
    """What has arrived of a form: the uploads in the order of their parts, and a digest of each."""

    uploads: list[UUID] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


class Submissions:
    """Makes jobs of what clients send, as JSON with a URL or as multipart with files."""

    def __init__(self, settings: Settings, engine: EngineFacts) -> None:
        self._download = settings.download
        self._body_bytes = settings.http.max_body_bytes
        self._max_files = settings.audio.max_tracks
        self._engine = engine

    async def submit_job(self) -> Response:
        """Whatever goes wrong, also a client that goes away: the files that have arrived are erased."""
        jobs, name, files = tenant_jobs(), key_name(), _Files()
        try:
            asked = await self._asked(jobs, files)
            if name is None:
                return _accepted(await jobs.submit(asked, uploads=files.uploads, trace=_trace()))
            return await _submit_once(jobs, name, asked, files)
        except BaseException:
            await _discard(jobs, files)
            raise

    async def _asked(self, jobs: TenantJobs, files: _Files) -> JobRequest:
        match request.mimetype:
            case "application/json":
                asked = read_request(await read_whole(self._body(), self._body_bytes))
                check_source(asked, self._download)
                self._check(asked)
                return asked
            case "multipart/form-data":
                return await self._receive(jobs, files)
            case _:
                raise UnsupportedMediaType("Send application/json, or multipart/form-data with a file.")

    async def _receive(self, jobs: TenantJobs, files: _Files) -> JobRequest:
        """Parts come in any order. One file too many is refused before it is stored."""
        asked: JobRequest | None = None
        async for part in Parts(self._body(), request.mimetype_params.get("boundary", "")):
            match part.name:
                case "file":
                    check_files(len(files.uploads) + 1, asked, self._max_files)
                    await self._store(jobs, part, files)
                case "request" if asked is None:
                    asked = await self._read_part(part)
                    check_files(len(files.uploads), asked, self._max_files)
                case name:
                    refuse(InvalidRequest, [Pointed(f"/{name}", "Send parts 'file' and at most one 'request'.")])
        if not files.uploads:
            refuse(InvalidRequest, [Pointed("/file", "This part is required.")])
        asked = asked or JobRequest()
        check_files(len(files.uploads), asked, self._max_files)
        return asked

    def _body(self) -> AsyncIterator[bytes]:
        return in_time(request.body, self._download.stall_seconds)

    async def _read_part(self, part: Part) -> JobRequest:
        asked = read_request(await read_whole(part, self._body_bytes))
        check_no_source(asked)
        self._check(asked)
        return asked

    def _check(self, asked: JobRequest) -> None:
        check_callback(asked, self._download)
        check_capabilities(asked, self._engine)

    async def _store(self, jobs: TenantJobs, part: Part, files: _Files) -> None:
        size, digest = 0, hashlib.sha256()
        async with jobs.upload() as upload:
            async for piece in part:
                size += len(piece)
                require_at_most(size, self._download.max_bytes)
                digest.update(piece)
                await upload.write(piece)
        files.uploads.append(upload.id)
        files.digests.append(digest.digest())


async def _submit_once(jobs: TenantJobs, name: str, asked: JobRequest, files: _Files) -> Response:
    """A job, or the first answer again: the very same request may be on its way twice at this moment, too."""
    key = key_of(name, asked, files.digests)
    while (made := await jobs.made_with(key)) is None:
        with suppress(KeyUsed):
            return _accepted(await jobs.submit(asked, uploads=files.uploads, trace=_trace(), key=key))
    await _discard(jobs, files)
    answer = _accepted(made)
    answer.headers["Idempotency-Replayed"] = "true"
    return answer


async def _discard(jobs: TenantJobs, files: _Files) -> None:
    with anyio.move_on_after(DISCARD_SECONDS, shield=True), suppress(Unavailable):
        await jobs.discard(files.uploads)


def _accepted(job: Job) -> Response:
    view = JobView.of(job)
    answer = answered(view, 202)
    answer.headers["Location"] = view.links.here
    answer.headers["Retry-After"] = RETRY_AFTER
    return answer


def _trace() -> Mapping[str, str] | None:
    given = request.headers.get("traceparent", "")
    return {"traceparent": given} if TRACEPARENT.fullmatch(given) else None
