"""The contract for machines: an OpenAPI 3.1 document, made of the routes and of the models that they speak."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from quart import Quart, Response
from werkzeug.routing import Rule

from api.engine import EngineView
from api.problems import CONTENT_TYPE
from api.schemas import JobPage, JobView, ProblemView, StandingView
from api.transcripts import FORMS
from pipeline.errors import (
    AntiphonError,
    CapabilityUnsupported,
    EngineUnavailable,
    IdempotencyMismatch,
    InvalidRequest,
    JobFinished,
    JobGone,
    JobNotFinished,
    MalformedJson,
    NotFound,
    PayloadTooLarge,
    QuotaExceeded,
    RequestTimeout,
    TenantClaimMissing,
    Unauthenticated,
    UnsupportedMediaType,
    UrlNotAllowed,
)
from pipeline.jobs import JobRequest, JobStatus
from pipeline.news import News
from pipeline.transcript import Transcript

Json = dict[str, Any]

MODELS: Final[Sequence[tuple[type[BaseModel], Literal["validation", "serialization"]]]] = (
    (JobRequest, "validation"),
    (JobView, "serialization"),
    (JobPage, "serialization"),
    (StandingView, "serialization"),
    (Transcript, "serialization"),
    (EngineView, "serialization"),
    (ProblemView, "serialization"),
    (News, "serialization"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What the document says of one route. ``content``: its good answer by media type, with these ``headers``;
    ``more``: added as it is."""

    summary: str
    content: Json
    status: int = 200
    errors: tuple[type[AntiphonError], ...] = ()
    headers: Json = field(default_factory=dict)
    more: Json = field(default_factory=dict)


def publish(app: Quart) -> None:
    """Add ``/openapi.json``, which tells of all routes of ``app`` and of itself."""

    async def openapi() -> Response:
        return Response(document, content_type="application/json")

    app.get("/openapi.json")(openapi)
    document = json.dumps(_document(app.url_map.iter_rules()), ensure_ascii=False)


def _document(rules: Iterable[Rule]) -> Json:
    _, schemas = models_json_schema(MODELS, ref_template="#/components/schemas/{model}")
    by_path = groupby(sorted(rules, key=attrgetter("rule")), key=attrgetter("rule"))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Antiphon", "version": "1", "license": {"name": "Apache-2.0"}},
        "paths": {_template(path): _path_item(group) for path, group in by_path},
        "webhooks": {"jobEnded": {"post": _NEWS}},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _template(path: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


def _path_item(rules: Iterable[Rule]) -> Json:
    return {
        method.lower(): _operation(rule)
        for rule in rules
        for method in sorted(rule.methods or ())
        if method not in ("HEAD", "OPTIONS")
    }


def _operation(rule: Rule) -> Json:
    told = OPERATIONS[rule.endpoint]
    ids = [_parameter("path", name, {"type": "string", "format": "uuid"}) for name in sorted(rule.arguments)]
    needs_token = Unauthenticated in told.errors
    return {
        "operationId": rule.endpoint,
        "summary": told.summary,
        "security": [{"token": []}] if needs_token else [],
        "responses": {str(told.status): _good(told), **_errors(told)},
        **told.more,
        "parameters": [*ids, *told.more.get("parameters", [])],
    }


def _good(told: Operation) -> Json:
    parts = {"description": told.summary, "headers": told.headers, "content": told.content}
    return {name: part for name, part in parts.items() if part}


def _errors(told: Operation) -> Json:
    by_status: dict[int, list[type[AntiphonError]]] = {}
    for error in told.errors:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _bad(errors) for status, errors in by_status.items()}


def _bad(errors: Sequence[type[AntiphonError]]) -> Json:
    content = {CONTENT_TYPE: {"schema": _ref(ProblemView)}}
    told = {"description": ", ".join(error.code for error in errors), "content": content}
    return {**told, "headers": _RETRY_AFTER} if any(error.retryable for error in errors) else told


def _ref(model: type) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _parameter(place: str, name: str, schema: Json) -> Json:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


_RETRY_AFTER: Final[Json] = {
    "Retry-After": {"description": "Seconds to wait before asking again.", "schema": {"type": "integer"}}
}
_ACCEPTED_HEADERS: Final[Json] = {
    **_RETRY_AFTER,
    "Location": {"description": "Where the job is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Idempotency-Replayed": {
        "description": "There where the key came before: the job is the one that was made then.",
        "schema": {"const": "true"},
    },
}
_NEWS: Final[Json] = {
    "operationId": "job_ended",
    "summary": "What callback_url is told when its job has ended, at least once, as Standard Webhooks have it.",
    "security": [],
    "parameters": [
        {**_parameter("header", name, {"type": "string"}), "required": True, "description": about}
        for name, about in (
            ("webhook-id", "The same each time that this is told."),
            ("webhook-timestamp", "When it was sent, in Unix seconds."),
            ("webhook-signature", "v1, and the HMAC-SHA256 of id.timestamp.body in base64."),
        )
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(News)}}},
    "responses": {"2XX": {"description": "It was taken; after 408, 429, 5xx or no answer it is sent again."}},
}

_STATUS: Final[Json] = {
    "application/json": {
        "schema": {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    }
}
_TRANSCRIPT: Final[Json] = {
    form.media_type: {"schema": _ref(Transcript) if name == "json" else {"type": "string"}}
    for name, form in FORMS.items()
}
_SUBMISSION: Final[Json] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"allOf": [_ref(JobRequest), {"required": ["media_url"]}]}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "description": "The recording; several are the tracks of one multitrack job, in their order.",
                        "type": "array",
                        "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "minItems": 1,
                    },
                    "request": _ref(JobRequest),
                },
                "required": ["file"],
            },
            "encoding": {"request": {"contentType": "application/json"}},
        },
    },
}
_TENANTS: Final = (Unauthenticated, TenantClaimMissing, EngineUnavailable)
_SUBMIT_ERRORS: Final = (
    *_TENANTS,
    MalformedJson,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    InvalidRequest,
    CapabilityUnsupported,
    UrlNotAllowed,
    IdempotencyMismatch,
    JobGone,
    QuotaExceeded,
)
_IDEMPOTENCY_KEY: Final[Json] = {
    "type": "string",
    "pattern": "^[!-~]{1,128}$",
    "description": "The same key with the same request is answered as it was the first time, for a day.",
}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "submit_job": Operation(
        "Submit a recording, or the tracks of one, to be transcribed.",
        {"application/json": {"schema": _ref(JobView)}},
        202,
        _SUBMIT_ERRORS,
        _ACCEPTED_HEADERS,
        {"requestBody": _SUBMISSION, "parameters": [_parameter("header", "Idempotency-Key", _IDEMPOTENCY_KEY)]},
    ),
    "list_jobs": Operation(
        "The tenant's jobs, newest first, without their results.",
        {"application/json": {"schema": _ref(JobPage)}},
        errors=(*_TENANTS, InvalidRequest),
        more={
            "parameters": [
                _parameter("query", "status", {"enum": list(JobStatus)}),
                _parameter("query", "created_after", {"type": "string", "format": "date-time"}),
                _parameter("query", "created_before", {"type": "string", "format": "date-time"}),
                _parameter("query", "external_id", {"type": "string", "maxLength": 256}),
                _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
                _parameter("query", "cursor", {"type": "string", "description": "The next_cursor of the page before."}),
            ]
        },
    ),
    "read_job": Operation(
        "How a job is, and its result once it is completed.",
        {"application/json": {"schema": _ref(JobView)}},
        errors=(*_TENANTS, NotFound),
    ),
    "cancel_job": Operation(
        "Cancel a job: at once where it waits, within a window of speech where it runs.",
        {"application/json": {"schema": _ref(JobView)}},
        errors=(*_TENANTS, NotFound, JobFinished),
    ),
    "delete_job": Operation(
        "Erase a job, its recording and its transcript; one that has not ended is cancelled.",
        {},
        204,
        (*_TENANTS, NotFound),
    ),
    "read_transcript": Operation(
        "The transcript alone, or one track of it, in the form of ?format= or else of Accept.",
        _TRANSCRIPT,
        errors=(*_TENANTS, NotFound, JobNotFinished, InvalidRequest),
        more={
            "parameters": [
                _parameter("query", "format", {"enum": list(FORMS), "default": "json"}),
                _parameter("query", "track", {"type": "string", "description": "The id of the one track to keep."}),
            ]
        },
    ),
    "read_queue": Operation(
        "How the tenant's jobs stand in the queue; of nothing else does an answer depend on other tenants.",
        {"application/json": {"schema": _ref(StandingView)}},
        errors=_TENANTS,
    ),
    "read_engine": Operation(
        "The engine of the replica that answers: what it is, what it can, and how busy it is.",
        {"application/json": {"schema": _ref(EngineView)}},
        errors=_TENANTS,
    ),
    "livez": Operation("Whether this process lives.", _STATUS, errors=(EngineUnavailable,)),
    "readyz": Operation("Whether this replica takes requests.", _STATUS, errors=(EngineUnavailable,)),
    "metrics": Operation("Instruments for Prometheus.", {"text/plain": {"schema": {"type": "string"}}}),
    "openapi": Operation("This document.", {"application/json": {"schema": {"type": "object"}}}),
}
