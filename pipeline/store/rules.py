"""What every store does alike: what is secret in a request, how a lost worker is told of, how uploads are cut."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from uuid import UUID

from pipeline.errors import WorkerLost
from pipeline.jobs import JobRequest, JobStatus, Problem
from pipeline.news import EndedJob, Links, News
from pipeline.transcript import Stored

CHUNK_BYTES: Final = 256 * 1024  # one row of an upload: large enough to stream fast, small enough to hold many at once
ORPHAN_SECONDS: Final = 3600.0  # an upload untouched for so long belongs to nobody

ALONE_SECONDS: Final = 60.0
"""How long a job that has lost its worker waits for a replica with nothing else to do, before one that is at work takes
no more until it has that job alone: as long as its lost lease had it wait already."""

_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#]*@")


class Secrets(Stored):
    """The parts of a request that open doors elsewhere; they are erased when the job ends."""

    media_url: str | None = None
    media_headers: dict[str, str] = {}


def divide(request: JobRequest) -> tuple[JobRequest, Secrets]:
    """A request that may be shown, and what its worker needs besides: headers, and the URL with query and credentials.

    The ``callback_url`` is a secret that no worker needs: whole it is only in the outbox.
    """
    secrets = Secrets(media_url=request.media_url, media_headers=request.media_headers)
    bare: dict[str, object] = {
        "media_url": _bare(request.media_url),
        "media_headers": {},
        "callback_url": _bare(request.callback_url),
    }
    return request.model_copy(update=bare), secrets


def unite(shown: JobRequest, secrets: Secrets) -> JobRequest:
    """The request as it came in, for whoever does the work."""
    return shown.model_copy(update=secrets.model_dump())


def event(job_id: UUID, status: JobStatus, external_id: str | None, ended_at: datetime) -> str:
    """The body of the webhook that tells how a job ended."""
    ended = EndedJob(job_id=job_id, status=status.value, external_id=external_id, links=Links.of(job_id))
    return News(type=f"job.{status}", timestamp=ended_at, data=ended).model_dump_json()


def worker_lost(attempt: int, *, last: bool) -> Problem:
    """Why an attempt ended whose lease ran out."""
    detail = None if last else "The worker of this job stopped answering; the job is tried again."
    return Problem.of(WorkerLost(detail), attempt=attempt)


def _bare(url: str | None) -> str | None:
    """Cut, not parsed: a URL that no parser takes must not keep its secrets for that."""
    return url and _CREDENTIALS.sub("", re.split(r"[?#]", url, maxsplit=1)[0])
