"""How an error becomes an answer: ``application/problem+json`` for our errors, the framework's and the unforeseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import structlog
from quart import Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod

from api.schemas import ProblemView
from pipeline.errors import (
    AntiphonError,
    EngineUnavailable,
    Internal,
    InvalidRequest,
    JobGone,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from pipeline.store import Unavailable

CONTENT_TYPE: Final = "application/problem+json"

# Seconds before a client should ask again: a short recording takes about as long.
RETRY_AFTER: Final = "2"

log = structlog.get_logger()


async def answer_error(error: Exception) -> Response:
    told = _told(error)
    view = ProblemView.of(told, instance=request.path, request_id=g.request_id)
    response = Response(view.model_dump_json(), status=told.status, content_type=CONTENT_TYPE)
    response.headers.extend(dict(_headers(told, error)))
    return response


def _told(error: Exception) -> AntiphonError:
    """What the client may know of ``error``."""
    match error:
        case JobGone():
            return error
        case NotFound() | HTTPException(code=404):
            return NotFound()  # one answer for a job of another tenant, for none, and for an id that cannot be one
        case AntiphonError():
            return error
        case HTTPException():
            return _of_framework(error)
        case Unavailable():
            log.warning("store-unavailable")
            return EngineUnavailable("The database cannot be reached right now; send the request again.")
        case _:
            log.error("request-failed", exc_info=error)
            return Internal()


def _of_framework(error: HTTPException) -> AntiphonError:
    match error.code:
        case 405:
            return MethodNotAllowed(f"{request.method} is not possible here; see the Allow header.")
        case 413:
            return PayloadTooLarge()
        case 415:
            return UnsupportedMediaType()
        case code if code is not None and code < 500:
            return InvalidRequest()
        case _:
            log.error("request-failed", exc_info=error)
            return Internal()


def _headers(told: AntiphonError, error: Exception) -> Iterator[tuple[str, str]]:
    if isinstance(told, Unauthenticated):
        yield "WWW-Authenticate", "Bearer"
    if isinstance(error, NoSuchMethod) and error.valid_methods:
        yield "Allow", ", ".join(sorted(error.valid_methods))
    if told.retryable:
        yield "Retry-After", RETRY_AFTER
