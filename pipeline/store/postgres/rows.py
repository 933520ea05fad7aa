"""What is stored as JSON, read again: rows of the jobs table as jobs.

Strict at the door, lenient here: during an upgrade a newer replica may have written members that this one has not met,
or values of known members. A job is shown without those; to work on it they have to be understood.
"""

from __future__ import annotations

from typing import Final, TypeVar

from asyncpg import Record
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from pipeline.jobs import Job, JobRequest, JobStatus, Problem, Progress, Tenant, Usage
from pipeline.transcript import Notice

Model = TypeVar("Model", bound=BaseModel)

NOTICES: Final = TypeAdapter(tuple[Notice, ...])
TRACE: Final = TypeAdapter(dict[str, str])


def read(model: type[Model], document: str) -> Model:
    """Raises ``ValidationError`` where a member has a value that means nothing here."""
    return model.model_validate_json(document, extra="ignore")


def show(model: type[Model], document: str) -> Model:
    """Without the members that cannot be read, as if nothing had been said of them."""
    try:
        return read(model, document)
    except ValidationError as error:
        unread = {wrong["loc"][0] for wrong in error.errors()}
    members = from_json(document)
    return read(model, to_json({name: value for name, value in members.items() if name not in unread}).decode())


def job_of(row: Record) -> Job:
    return Job(
        id=row["id"],
        tenant=Tenant(row["tenant_id"]),
        request=show(JobRequest, row["request"]),
        uploads=tuple(row["uploads"]),
        status=JobStatus(row["status"]),
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        losses=row["losses"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        next_attempt_at=row["next_attempt_at"],
        progress=show(Progress, row["progress"]),
        error=_maybe(Problem, row["error"]),
        last_error=_maybe(Problem, row["last_error"]),
        usage=_maybe(Usage, row["usage"]),
        warnings=NOTICES.validate_json(row["warnings"], extra="ignore"),
    )


def _maybe(model: type[Model], document: str | None) -> Model | None:
    return None if document is None else show(model, document)
