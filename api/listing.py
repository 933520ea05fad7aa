"""A tenant's jobs, newest first, a page at a time: ``GET /v1/jobs``.

A cursor is a position and no permission: whoever else's it is, it leads only through the jobs of whoever sends it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from quart import Response, request

from api.middleware import tenant_jobs
from api.requests import read_query, refuse, unreadable
from api.schemas import JobPage, JobSummary, answered
from pipeline.errors import InvalidRequest, Pointed
from pipeline.jobs import Job, JobStatus
from pipeline.store import Listing, Place

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
POSITION: Final = struct.Struct(">q16s")  # microseconds since 1970, the id of the job
TIME: Final = re.compile(  # RFC 3339, section 5.6; a parser of times takes a good deal more
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
WHOLE: Final = re.compile(r"\d+", re.ASCII)
MARK_BYTES: Final = 9  # with the position 33 bytes, which base64 spells in one way only


def _spelled(text: str) -> str:
    if not TIME.fullmatch(text):
        raise ValueError("This must be a time with its offset from UTC, such as 2026-11-23T09:30:00Z.")
    return text


def _whole(text: str) -> str:
    if not WHOLE.fullmatch(text):
        raise ValueError("This must be a whole number.")
    return text


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("No calendar here reaches that far.") from None


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("No job has a NUL character in it.")
    return text


Moment = Annotated[AwareDatetime, BeforeValidator(_spelled), AfterValidator(_in_utc)]


class Filters(BaseModel):
    """Which jobs a list has; a cursor leads on in the list it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: JobStatus | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    external_id: Annotated[str, Field(max_length=256), AfterValidator(_storable)] | None = None


class Query(Filters):
    limit: Annotated[int, BeforeValidator(_whole)] = Field(default=50, ge=1, le=200)
    cursor: str | None = None


async def list_jobs() -> Response:
    asked = _asked()
    filters = Filters.model_construct(**asked.model_dump(include=set(Filters.model_fields)))
    after = _place(asked.cursor, filters) if asked.cursor is not None else None
    # one more than is shown tells whether there is another page
    jobs = await tenant_jobs().list(Listing(limit=asked.limit + 1, after=after, **dict(filters)))
    return answered(_page(jobs, asked.limit, filters))


def _asked() -> Query:
    try:
        return Query.model_validate(read_query(request.args))
    except ValidationError as error:
        raise unreadable(error) from None


def _page(jobs: Sequence[Job], limit: int, filters: Filters) -> JobPage:
    shown = jobs[:limit]
    items = tuple(map(JobSummary.of_job, shown))
    return JobPage(items=items, next_cursor=_cursor(shown[-1], filters) if len(jobs) > limit else None)


def _cursor(job: Job, filters: Filters) -> str:
    position = POSITION.pack((job.created_at - EPOCH) // MICROSECOND, job.id.bytes)
    return base64.urlsafe_b64encode(position + _mark(position, filters)).decode()


def _place(cursor: str, filters: Filters) -> Place | None:
    """Raises ``InvalidRequest`` for what is no cursor of this list."""
    try:
        spelled = base64.b64decode(cursor, altchars=b"-_", validate=True)
        position, mark = spelled[: POSITION.size], spelled[POSITION.size :]
        microseconds, job_id = POSITION.unpack(position)
        if mark == _mark(position, filters):
            return Place(EPOCH + microseconds * MICROSECOND, UUID(bytes=job_id))
    except (ValueError, struct.error, OverflowError):
        pass
    refuse(InvalidRequest, [Pointed("/cursor", "Give a next_cursor, with the filters of the list that it came from.")])
    return None


def _mark(position: bytes, filters: Filters) -> bytes:
    """What tells a cursor of this list from one of another, and from one that was cut or mistyped."""
    return hashlib.sha256(position + filters.model_dump_json().encode()).digest()[:MARK_BYTES]
