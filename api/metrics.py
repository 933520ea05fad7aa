"""The instruments of ``pipeline.telemetry``, in the form that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from quart import Response


async def metrics() -> Response:
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)
