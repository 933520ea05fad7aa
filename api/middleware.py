"""What surrounds every request: its id, its tenant, its headers, its line in the log."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

import structlog
from quart import Quart, Response, g, request

from api.security import TokenReader
from pipeline.store import Store, TenantJobs

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, WebsocketScope

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

log = structlog.get_logger()


def surround(app: Quart, store: Store, tokens: TokenReader) -> None:
    async def name_request() -> None:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else str(uuid4())
        g.began = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    async def admit_tenant() -> None:
        # by path and not by route, so that no route can forget it
        if _is_tenants():
            tenant = tokens.tenant(request.headers.get("Authorization"))
            structlog.contextvars.bind_contextvars(tenant_id=tenant)
            g.jobs = store.tenant(tenant)

    async def seal_answer(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if _is_tenants():
            response.headers["Cache-Control"] = "no-store"
            log.info(
                "request-answered",
                method=request.method,
                path=request.path,
                status=response.status_code,
                seconds=round(time.monotonic() - g.began, 4),
            )
        return response

    app.before_request(name_request)
    app.before_request(admit_tenant)
    app.after_request(seal_answer)


class NoWebsocket:
    """Closes every websocket before it opens: there is nothing here to talk about."""

    def __init__(self, app: Quart, scope: WebsocketScope) -> None:
        pass

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": None})


def tenant_jobs() -> TenantJobs:
    """The jobs of whoever sent this request; there is no way from here to anybody else's."""
    return cast("TenantJobs", g.jobs)


def _is_tenants() -> bool:
    return request.path == "/v1" or request.path.startswith("/v1/")
