"""What a client is told when its job has ended: the body of a webhook. It holds nothing that was said."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from pipeline.transcript import Stored


class Links(Stored):
    """Where a client finds what there is of a job."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    here: str = Field(alias="self")
    transcript: str
    cancel: str

    @classmethod
    def of(cls, job_id: UUID) -> Links:
        here = f"/v1/jobs/{job_id}"
        return cls(here=here, transcript=f"{here}/transcript", cancel=f"{here}/cancel")


class EndedJob(Stored):
    job_id: UUID
    status: Literal["completed", "failed", "cancelled"]
    external_id: str | None
    links: Links


class News(Stored):
    type: Literal["job.completed", "job.failed", "job.cancelled"]
    timestamp: datetime
    data: EndedJob
