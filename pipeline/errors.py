"""Every error that a client can be told of, as one tree.

    AntiphonError                   code · status · retryable · title
    ├── RequestError                answered at the door
    │   ├── MalformedJson  InvalidRequest  CapabilityUnsupported  UnsupportedMediaType
    │   ├── Unauthenticated  TenantClaimMissing  NotFound ◁ JobGone  MethodNotAllowed
    │   ├── JobNotFinished  JobFinished  IdempotencyMismatch  QuotaExceeded
    │   └── PayloadTooLarge  RequestTimeout  EngineUnavailable
    └── JobError                    ends an attempt, kept as the job's ``error``
        ├── UrlNotAllowed  MediaUnreachable  MediaTooLarge  MediaTimeout
        ├── MediaUnsupported  MediaCorrupt  TrackNotFound
        └── EngineFailed  WorkerLost  Internal

    EngineLost                      nobody contains it: the process ends, leases bring its jobs back

A class's docstring is its title. ``detail`` says what was wrong, with which value, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Pointed:
    """One member of a request that is wrong: a JSON pointer (RFC 6901) and what is wrong there."""

    pointer: str
    detail: str


class AntiphonError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: bool = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        retryable: bool | None = None,
        errors: tuple[Pointed, ...] = (),
        track: str | None = None,
    ) -> None:
        self.detail = detail or self.title
        self.errors = errors
        self.track = track
        if retryable is not None:
            self.retryable = retryable
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        return (type(self).__doc__ or "").partition("\n")[0].rstrip(".")


class RequestError(AntiphonError):
    """The request cannot be answered."""


class MalformedJson(RequestError):
    """The body is not JSON."""

    code, status = "malformed-json", 400


class InvalidRequest(RequestError):
    """The request is not valid."""

    code, status = "invalid-request", 422


class CapabilityUnsupported(RequestError):
    """This service cannot do what was asked."""

    code, status = "capability-unsupported", 422


class UnsupportedMediaType(RequestError):
    """The body has a content type that is not understood here."""

    code, status = "unsupported-media-type", 415


class PayloadTooLarge(RequestError):
    """The body is too large."""

    code, status = "payload-too-large", 413


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code, status, retryable = "request-timeout", 408, True


class Unauthenticated(RequestError):
    """A valid bearer token is needed."""

    code, status = "unauthenticated", 401


class TenantClaimMissing(RequestError):
    """The token names no tenant."""

    code, status = "tenant-claim-missing", 403


class NotFound(RequestError):
    """There is nothing here."""

    code, status = "not-found", 404


class JobGone(NotFound):
    """The job of this Idempotency-Key is gone."""


class MethodNotAllowed(RequestError):
    """This path does not know that method."""

    code, status = "method-not-allowed", 405


class JobNotFinished(RequestError):
    """The job has not ended with a transcript."""

    code, status = "job-not-finished", 409


class JobFinished(RequestError):
    """The job has ended already."""

    code, status = "job-finished", 409


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key came with another request before."""

    code, status = "idempotency-mismatch", 422


class QuotaExceeded(RequestError):
    """This tenant has as much as it may have."""

    code, status, retryable = "quota-exceeded", 429, True


class EngineUnavailable(RequestError):
    """The service cannot take work right now."""

    code, status, retryable = "engine-unavailable", 503, True


class JobError(AntiphonError):
    """The job failed."""


class UrlNotAllowed(JobError):
    """This address may not be fetched."""

    code, status = "url-not-allowed", 422


class MediaUnreachable(JobError):
    """The media could not be fetched."""

    code, status, retryable = "media-unreachable", 502, True


class MediaTooLarge(JobError):
    """The media is larger than this service accepts."""

    code, status = "media-too-large", 413


class MediaTimeout(JobError):
    """The media did not arrive in time."""

    code, status, retryable = "media-timeout", 504, True


class MediaUnsupported(JobError):
    """The media holds no audio that can be read."""

    code, status = "media-unsupported", 415


class MediaCorrupt(JobError):
    """The media is damaged."""

    code, status = "media-corrupt", 422


class TrackNotFound(JobError):
    """The recording has no such track."""

    code, status = "track-not-found", 422


class EngineFailed(JobError):
    """The speech engine could not transcribe this recording."""

    code, status, retryable = "engine-failed", 500, True


class WorkerLost(JobError):
    """The worker of this job disappeared too often."""

    code, status = "worker-lost", 500


class Internal(JobError):
    """Something unforeseen happened; it is in the log of the service."""

    code, status = "internal", 500


class EngineLost(Exception):
    """The device or its driver is gone; only a new process can have it back."""


class ConfigError(Exception):
    """A setting is wrong, or something it asks for is not on this machine; ends the start with one sentence."""
