"""A job: what was asked for, how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NewType
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import to_json

from pipeline.errors import AntiphonError, Internal
from pipeline.languages import LANGUAGES
from pipeline.transcript import LABEL_CHARACTERS, Notice, Stored, shown

Tenant = NewType("Tenant", str)

METADATA_BYTES = 4096
HIGHEST_INDEX: Final = 10_000  # no file has so many streams; what is far beyond it is a mistake


class JobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return not MOVES[self]


MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED}),
    # back to pending: a retry, a rescue, or given back by a replica that stops
    JobStatus.RUNNING: frozenset({JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

PRIORITIES: Mapping[str, int] = {"low": -1, "normal": 0, "high": 1}

LONGEST_OFFSET = 43_200.0
"""Seconds: half a day, as long as the longest recording that is taken unless settings say otherwise."""

LONGEST_RETENTION: Final = 2**31 - 1
"""Seconds: 68 years, as many as an integer column holds."""


def _known_language(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"Whisper does not know the language {language!r}; give a code such as 'en'.")
    return language


Language = Annotated[str, AfterValidator(_known_language)]


def _visible(label: str) -> str:
    if not shown(label):
        raise ValueError("Nothing of this label can be seen; give a name, or leave it out.")
    return label


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("A NUL character cannot be looked for; leave it out.")
    return text


ExternalId = Annotated[str, Field(max_length=256), AfterValidator(_storable)]
Label = Annotated[str, Field(min_length=1, max_length=LABEL_CHARACTERS), AfterValidator(_visible)]


class TrackRequest(BaseModel):
    """What the client knows of one track.

    ``index`` counts the audio streams of all files; (stream, channel) pairs under ``split_channels: always``, and
    under ``auto`` too where the job has a single stream. ``offset_seconds`` moves the track on the media's clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    index: int = Field(ge=0, le=HIGHEST_INDEX)
    label: Label | None = None
    language: Language | None = None
    offset_seconds: float = Field(default=0.0, ge=-LONGEST_OFFSET, le=LONGEST_OFFSET)


class JobRequest(BaseModel):
    """The body of ``POST /v1/jobs``, and what the store keeps of it. ``media_url`` is ``None`` for uploads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    media_url: str | None = Field(default=None, max_length=8192)
    media_headers: dict[str, str] = Field(default_factory=dict, max_length=32)
    media_type: str | None = Field(default=None, max_length=255)
    processing_mode: Literal["downmix", "select", "multitrack"] = "downmix"
    track_index: int | None = Field(default=None, ge=0, le=HIGHEST_INDEX, validate_default=True)
    split_channels: Literal["auto", "always", "never"] = "auto"
    tracks: tuple[TrackRequest, ...] = Field(default=(), max_length=256)
    crosstalk: Literal["off", "mark", "suppress"] = "mark"
    language: Language | None = None
    target_language: str | None = None
    word_timestamps: bool = False
    quality: Literal["fast", "balanced", "accurate"] = "balanced"
    prompt: str | None = Field(default=None, max_length=2048)
    priority: Literal["low", "normal", "high"] = "normal"
    callback_url: str | None = Field(default=None, max_length=8192)
    retention_seconds: int | None = Field(default=None, ge=0, le=LONGEST_RETENTION)
    external_id: ExternalId | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("tracks")
    @classmethod
    def _each_track_once(cls, tracks: tuple[TrackRequest, ...], before: ValidationInfo) -> tuple[TrackRequest, ...]:
        if tracks and before.data.get("processing_mode") == "downmix":
            raise ValueError("A downmix has no tracks; set processing_mode to 'select' or 'multitrack'.")
        indexes = [track.index for track in tracks]
        if twice := {index for index in indexes if indexes.count(index) > 1}:
            raise ValueError(f"The track {min(twice)} is described more than once.")
        return tracks

    @field_validator("metadata")
    @classmethod
    def _small_metadata(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        size = len(to_json(metadata))
        if size > METADATA_BYTES:
            raise ValueError(f"metadata takes {size} bytes as JSON; at most {METADATA_BYTES} are kept.")
        return metadata

    @field_validator("track_index")
    @classmethod
    def _index_goes_with_select(cls, index: int | None, before: ValidationInfo) -> int | None:
        mode = before.data.get("processing_mode")
        if mode == "select" and index is None:
            raise ValueError("processing_mode 'select' needs track_index.")
        if mode not in ("select", None) and index is not None:
            raise ValueError("track_index has a meaning only with processing_mode 'select'.")
        return index


# Where each stage begins on the way from 0 to 1; transcribing is nearly all of a job's time.
_BEGINS = {"pending": 0.0, "downloading": 0.0, "demuxing": 0.05, "transcribing": 0.08, "interleaving": 0.97}
_BEGINS["committing"] = 0.98
_ENDS = dict(zip(_BEGINS, [*list(_BEGINS.values())[1:], 1.0], strict=True))


class Progress(Stored):
    """How far a job is. ``fraction`` never goes back, over attempts too."""

    stage: Literal["pending", "downloading", "demuxing", "transcribing", "interleaving", "committing"] = "pending"
    fraction: float = 0.0
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    tracks_done: int = 0
    tracks_total: int | None = None

    def at(self, stage: str, part: float = 0.0, **changes: Any) -> Progress:
        """The same progress moved on to ``stage``, ``part`` (0 … 1) of which is done."""
        reached = _BEGINS[stage] + (_ENDS[stage] - _BEGINS[stage]) * min(1.0, max(0.0, part))
        return self.model_copy(update={"stage": stage, "fraction": max(self.fraction, reached), **changes})


class Usage(Stored):
    """What a job has cost, in seconds.

    ``media``: length of the recording. ``track``: summed over transcribed tracks, silence included. ``speech``: what
    the engine was given. ``queue``: from submit to the claim that completed it. ``processing``: from that claim to its
    commit. ``realtime_factor`` is processing over media.
    """

    media_seconds: float
    track_seconds: float
    speech_seconds: float
    queue_seconds: float
    processing_seconds: float
    realtime_factor: float | None


class Problem(Stored):
    """An error as it is stored with a job and served (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    stage: str | None = None
    attempt: int | None = None
    track: str | None = None

    @classmethod
    def of(cls, error: Exception, *, stage: str | None = None, attempt: int | None = None) -> Problem:
        """What may be told of ``error``: errors outside our tree are ``internal`` and keep their text to the log.

        Those of the operating system may pass (a full disk); the rest are bugs, and come again.
        """
        known = error if isinstance(error, AntiphonError) else Internal(retryable=isinstance(error, OSError))
        return cls(
            type=f"urn:antiphon:problem:{known.code}",
            title=known.title,
            status=known.status,
            detail=known.detail,
            code=known.code,
            retryable=known.retryable,
            stage=stage,
            attempt=attempt,
            track=known.track,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store knew it at one moment. ``uploads`` are the ids of its uploaded files, in part order.

    ``attempt`` counts attempts begun, less those given back. ``losses`` are those whose worker disappeared: they have a
    limit of their own, and ``max_attempts`` is for the others.
    """

    id: UUID
    tenant: Tenant
    request: JobRequest
    created_at: datetime
    status: JobStatus = JobStatus.PENDING
    uploads: tuple[UUID, ...] = ()
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempt: int = 0
    max_attempts: int = 3
    losses: int = 0
    next_attempt_at: datetime | None = None
    progress: Progress = Progress()
    error: Problem | None = None
    last_error: Problem | None = None
    warnings: tuple[Notice, ...] = ()
    usage: Usage | None = None
