"""Asking how a job is, and ending it: ``/v1/jobs/{id}`` and below; and how all of a tenant's stand in the queue."""

from __future__ import annotations

from uuid import UUID

from quart import Response

from api.middleware import tenant_jobs
from api.schemas import JobView, StandingView, answered
from pipeline.jobs import JobStatus


async def read_job(job_id: UUID) -> Response:
    jobs = tenant_jobs()
    job = await jobs.get(job_id)
    result = await jobs.transcript(job_id) if job.status is JobStatus.COMPLETED else None
    return answered(JobView.of(job, result))


async def cancel_job(job_id: UUID) -> Response:
    """A running job is still running in this answer: its worker hears of it within a window."""
    return answered(JobView.of(await tenant_jobs().cancel(job_id)))


async def delete_job(job_id: UUID) -> Response:
    await tenant_jobs().delete(job_id)
    nothing = Response(status=204)
    del nothing.headers["Content-Type"]
    return nothing


async def read_queue() -> Response:
    return answered(StandingView.of(await tenant_jobs().standing()))
