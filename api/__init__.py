"""The door: HTTP in, problem+json or transcripts out.

    POST   /v1/jobs                  Submissions    requests · bodies · idempotency
    GET    /v1/jobs                  list_jobs
    GET    /v1/jobs/{id}             read_job       schemas
    DELETE /v1/jobs/{id}             delete_job
    POST   /v1/jobs/{id}/cancel      cancel_job
    GET    /v1/jobs/{id}/transcript  read_transcript
    GET    /v1/queue                 read_queue
    GET    /v1/engine                EngineDesk
    GET    /livez  /readyz           Health
    GET    /metrics                  metrics
    GET    /openapi.json             openapi

Around every route: ``middleware`` (request id, tenant by ``security``, log) and ``problems`` (errors as answers).
"""

from __future__ import annotations

from collections.abc import Callable

from quart import Quart

from api.bodies import PacedConnection, PacedRequest
from api.engine import EngineDesk, EngineState
from api.health import Health
from api.jobs import cancel_job, delete_job, read_job, read_queue
from api.listing import list_jobs
from api.metrics import metrics
from api.middleware import NoWebsocket, surround
from api.openapi import publish
from api.problems import answer_error
from api.requests import EngineFacts
from api.security import TokenReader
from api.submissions import Submissions
from api.transcripts import read_transcript
from pipeline.settings import Settings
from pipeline.store import Store

__all__ = ["EngineFacts", "Health", "create_app"]


def create_app(
    store: Store, settings: Settings, *, engine: EngineFacts, look: Callable[[], EngineState], health: Health
) -> Quart:
    """Needs ``settings.auth.secret``. ``look``: how the engine is now; called on the event loop.

    Raises ``ConfigError`` when tokens could not be verified with that secret.
    """
    # no file is served from anywhere, so Quart need not look for any, which would block the loop
    app = Quart(__name__, static_folder=None, root_path="/", instance_path="/")
    app.asgi_http_class, app.request_class = PacedConnection, PacedRequest
    app.asgi_websocket_class = NoWebsocket
    app.config["MAX_CONTENT_LENGTH"] = None  # each route has a limit of its own, kept while it reads
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # it would answer with a redirect that is not ours

    surround(app, store, TokenReader(settings.auth))
    app.register_error_handler(Exception, answer_error)

    app.post("/v1/jobs")(Submissions(settings, engine).submit_job)
    app.get("/v1/jobs")(list_jobs)
    app.get("/v1/jobs/<uuid:job_id>")(read_job)
    app.delete("/v1/jobs/<uuid:job_id>")(delete_job)
    app.post("/v1/jobs/<uuid:job_id>/cancel")(cancel_job)
    app.get("/v1/jobs/<uuid:job_id>/transcript")(read_transcript)
    app.get("/v1/queue")(read_queue)
    app.get("/v1/engine")(EngineDesk(look, health).read_engine)
    app.get("/livez")(health.livez)
    app.get("/readyz")(health.readyz)
    app.get("/metrics")(metrics)
    publish(app)
    return app
