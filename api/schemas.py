"""The JSON that leaves the door: a job with its progress and its result, and problems."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from quart import Response

from pipeline.errors import AntiphonError, Pointed
from pipeline.jobs import Job, JobStatus, Problem, Progress, Usage
from pipeline.news import Links
from pipeline.store import Standing
from pipeline.transcript import Notice, Transcript


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class ProblemView(View):
    """An error as it is answered (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    request_id: str | None
    errors: tuple[Pointed, ...] = ()

    @classmethod
    def of(cls, error: AntiphonError, *, instance: str, request_id: str) -> ProblemView:
        told = Problem.of(error).model_dump(exclude={"stage", "attempt", "track"})
        return cls(**told, instance=instance, request_id=request_id, errors=error.errors)


class JobProblemView(ProblemView):
    """What ended an attempt: the same object, and where in the job it happened."""

    stage: str | None
    attempt: int | None
    track: str | None

    @classmethod
    def kept(cls, problem: Problem | None, *, instance: str) -> JobProblemView | None:
        return cls(**problem.model_dump(), instance=instance, request_id=None) if problem else None


class ProgressView(Progress):
    eta_seconds: float | None

    @classmethod
    def of_job(cls, job: Job, now: datetime) -> ProgressView:
        return cls(**job.progress.model_dump(), eta_seconds=_eta(job, now))


class JobSummary(View):
    """A job as its tenant sees it in a list: without what was said, and as always without the secrets it came with."""

    id: str
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    media_url: str | None
    processing_mode: str
    external_id: str | None
    metadata: dict[str, JsonValue]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempt: int
    max_attempts: int
    next_attempt_at: datetime | None
    progress: ProgressView
    error: JobProblemView | None
    last_error: JobProblemView | None
    warnings: tuple[Notice, ...]
    usage: Usage | None
    links: Links

    @classmethod
    def of_job(cls, job: Job) -> JobSummary:
        links = Links.of(job.id)
        return cls(
            id=str(job.id),
            status=job.status.value,
            media_url=job.request.media_url,
            processing_mode=job.request.processing_mode,
            external_id=job.request.external_id,
            metadata=job.request.metadata,
            created_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            next_attempt_at=job.next_attempt_at,
            progress=ProgressView.of_job(job, datetime.now(UTC)),
            error=JobProblemView.kept(job.error, instance=links.here),
            last_error=JobProblemView.kept(job.last_error, instance=links.here),
            warnings=job.warnings,
            usage=job.usage,
            links=links,
        )


class JobView(JobSummary):
    result: Transcript | None

    @classmethod
    def of(cls, job: Job, result: Transcript | None = None) -> JobView:
        return cls(**dict(JobSummary.of_job(job)), result=result)


class JobPage(View):
    items: tuple[JobSummary, ...]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class StandingView(View):
    """How the tenant's own jobs stand in the queue. Only ahead and starts_in_seconds depend on other tenants."""

    pending: int
    running: int
    oldest_seconds: float | None = Field(description="How long the oldest waiting job has been ready; null: none is.")
    ahead: int | None = Field(
        description="Other tenants whose turn comes before; null: nothing waits, or as many of its jobs run as may."
    )
    starts_in_seconds: float | None = Field(description="Until its turn, at the pace of late; null: it cannot be told.")

    @classmethod
    def of(cls, standing: Standing) -> StandingView:
        return cls(
            pending=standing.pending,
            running=standing.running,
            oldest_seconds=standing.oldest_seconds,
            ahead=standing.ahead,
            starts_in_seconds=standing.starts_in,
        )


def answered(view: View, status: int = 200) -> Response:
    return Response(view.model_dump_json(), status=status, content_type="application/json")


def _eta(job: Job, now: datetime) -> float | None:
    """Seconds left at the pace so far; none before some audio is done, since fetching tells nothing of transcribing."""
    done = job.progress.fraction
    if job.status is not JobStatus.RUNNING or job.started_at is None or not job.progress.audio_seconds_done:
        return None
    elapsed = max(0.0, (now - job.started_at).total_seconds())
    return round(elapsed * (1 - done) / done, 1) if done else None
