"""What is stored as JSON, read again: rows of the jobs table as jobs.

Strict at the door, lenient here: during an upgrade a newer replica may have written members that this one has not met.
"""

from __future__ import annotations

from typing import Final, TypeVar

from asyncpg import Record
from pydantic import BaseModel, TypeAdapter

from pipeline.jobs import Job, JobRequest, JobStatus, Problem, Progress, Tenant, Usage
from pipeline.transcript import Notice

Model = TypeVar("Model", bound=BaseModel)

NOTICES: Final = TypeAdapter(tuple[Notice, ...])
TRACE: Final = TypeAdapter(dict[str, str])


def read(model: type[Model], document: str) -> Model:
    return model.model_validate_json(document, extra="ignore")


def job_of(row: Record) -> Job:
    return Job(
        id=row["id"],
        tenant=Tenant(row["tenant_id"]),
        request=read(JobRequest, row["request"]),
        uploads=tuple(row["uploads"]),
        status=JobStatus(row["status"]),
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        losses=row["losses"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        next_attempt_at=row["next_attempt_at"],
        progress=read(Progress, row["progress"]),
        error=_maybe(Problem, row["error"]),
        last_error=_maybe(Problem, row["last_error"]),
        usage=_maybe(Usage, row["usage"]),
        warnings=NOTICES.validate_json(row["warnings"], extra="ignore"),
    )


def _maybe(model: type[Model], document: str | None) -> Model | None:
    return None if document is None else read(model, document)
