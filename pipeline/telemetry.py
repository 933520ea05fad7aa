"""What the service tells of itself: the log's form, and one table of instruments that the chain feeds.

events        retrying · stage-failed · job-ended, and what each module logs by name
instruments   INSTRUMENTS below; Prometheus reads them at /metrics
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider

from pipeline.claim import Abandoned, Claim
from pipeline.errors import AntiphonError, Internal
from pipeline.observer import Ending, Observer, Turn
from pipeline.settings import TelemetrySettings
from pipeline.step import StepStatistics
from pipeline.store import QueueHealth

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row of the table. ``unit`` is UCUM; Prometheus adds it, and ``_total`` for counters, to the name."""

    name: str
    unit: str
    description: str


ITEMS: Final = Instrument("stage_items", "1", "Items that left a stage, by stage and outcome.")
BUSY: Final = Instrument("stage_busy", "s", "Time in a stage, by stage.")
BLOCKED: Final = Instrument("stage_blocked", "s", "Time an item waited for room behind its stage, by stage.")
RETRIES: Final = Instrument("stage_retries", "1", "Errors that were tried again in place, by stage.")
ENDINGS: Final = Instrument("claims_ended", "1", "Claims that ended, by ending and error code.")
WAITING: Final = Instrument("stage_waiting", "1", "Items waiting before a stage, by stage.")
ACTIVE: Final = Instrument("stage_active", "1", "Hands at work in a stage, by stage.")
ENGINE_BUSY: Final = Instrument("engine_busy", "s", "Time the engine's lanes have worked.")
ENGINE_BATCHES: Final = Instrument("engine_batches", "1", "Batches the engine has run.")
ENGINE_WINDOWS: Final = Instrument("engine_windows", "1", "Windows the engine has run.")
ENGINE_READY: Final = Instrument("engine_ready", "1", "Windows that wait for a lane.")

# By the field of QueueHealth; of all tenants and replicas together, so each replica tells the same.
QUEUE: Final[Mapping[str, Instrument]] = {
    "pending": Instrument("queue_pending", "1", "Jobs that may be begun."),
    "waiting": Instrument("queue_retrying", "1", "Jobs with a retry ahead of them."),
    "running": Instrument("queue_running", "1", "Jobs that a worker has."),
    "tenants": Instrument("queue_tenants", "1", "Tenants with jobs that wait or run."),
    "oldest_seconds": Instrument("queue_oldest", "s", "How long the oldest pending job could have been begun."),
    "late_seconds": Instrument("queue_lease_late", "s", "How far the most overdue lease has run out."),
    "started": Instrument("queue_started_5m", "1", "Attempts begun in five minutes."),
    "retried": Instrument(
        "queue_retried_5m", "1", "Attempts that failed in five minutes, of jobs that are tried again."
    ),
    "lost": Instrument("queue_lost_5m", "1", "Attempts lost with their worker in five minutes."),
    "failed": Instrument("queue_failed_5m", "1", "Jobs that failed for good in five minutes."),
    "wait_seconds_p50": Instrument("queue_wait_p50", "s", "Median wait of the jobs begun in five minutes."),
    "wait_seconds_p99": Instrument("queue_wait_p99", "s", "99th percentile of the same waits."),
    "oldest_snapshot_seconds": Instrument("queue_oldest_snapshot", "s", "Age of the oldest snapshot in the database."),
}

INSTRUMENTS: Final = (
    *(ITEMS, BUSY, BLOCKED, RETRIES, ENDINGS, WAITING, ACTIVE),
    *(ENGINE_BUSY, ENGINE_BATCHES, ENGINE_WINDOWS, ENGINE_READY),
    *QUEUE.values(),
)


class Telemetry(Observer):
    """Feeds the instruments and the log from what the chain tells."""

    def __init__(self) -> None:
        self._provider = MeterProvider([PrometheusMetricReader(scope_info_enabled=False)])
        self._meter = self._provider.get_meter("antiphon")
        self._items, self._retries, self._endings = (self._counter(i) for i in (ITEMS, RETRIES, ENDINGS))
        self._busy, self._blocked = self._counter(BUSY), self._counter(BLOCKED)

    def watch(self, instrument: Instrument, read: Callable[[], float], *, total: bool = False) -> None:
        """Ask ``read`` whenever the instruments are read; ``total``: what it tells only grows."""
        self._observe(instrument, lambda _: [Observation(read())], total=total)

    def watch_steps(self, statistics: Callable[[], Iterable[StepStatistics]]) -> None:
        self._observe(WAITING, lambda _: [Observation(s.waiting, {"stage": s.stage}) for s in statistics()])
        self._observe(ACTIVE, lambda _: [Observation(s.active, {"stage": s.stage}) for s in statistics()])

    def watch_queue(self, look: Callable[[], QueueHealth | None]) -> None:
        """While ``look`` gives ``None`` these instruments have no values: none of before is taken for one of now."""
        for field, instrument in QUEUE.items():
            self._observe(instrument, partial(_observed, look, field))

    def close(self) -> None:
        self._provider.shutdown()

    @contextmanager
    def attending(self, stage: str, claim: Claim) -> Iterator[None]:
        """Log lines made in a stage name the job: context variables do not cross channels."""
        job = claim.job
        with structlog.contextvars.bound_contextvars(
            tenant_id=job.tenant, job_id=str(job.id), attempt=job.attempt, stage=stage
        ):
            yield

    def turned(self, turn: Turn) -> None:
        outcome = "ok" if turn.error is None else "abandoned" if isinstance(turn.error, Abandoned) else "error"
        self._items.add(1, {"stage": turn.stage, "outcome": outcome})
        self._busy.add(turn.busy, {"stage": turn.stage})
        self._blocked.add(turn.blocked, {"stage": turn.stage})
        if outcome == "error":
            # what a client is told in full needs no traceback
            known = isinstance(turn.error, AntiphonError) and not isinstance(turn.error, Internal)
            log.warning("stage-failed", error=str(turn.error), exc_info=None if known else turn.error)

    def ended(self, claim: Claim, ending: Ending, error: Exception | None) -> None:
        code = error.code if isinstance(error, AntiphonError) else type(error).__name__ if error else ""
        self._endings.add(1, {"ending": ending, "code": code})
        job = claim.job
        log.info("job-ended", job_id=str(job.id), tenant_id=job.tenant, attempt=job.attempt, ending=ending, code=code)

    def retrying(self, stage: str, claim: Claim | None, error: Exception, wait: float) -> None:
        self._retries.add(1, {"stage": stage})
        job = {"job_id": str(claim.job.id)} if claim else {}
        log.warning("retrying", stage=stage, **job, error=f"{type(error).__name__}: {error}", wait_seconds=wait)

    def _counter(self, instrument: Instrument) -> Any:
        return self._meter.create_counter(instrument.name, instrument.unit, instrument.description)

    def _observe(
        self, row: Instrument, callback: Callable[[CallbackOptions], Iterable[Observation]], *, total: bool = False
    ) -> None:
        create = self._meter.create_observable_counter if total else self._meter.create_observable_gauge
        create(row.name, [callback], row.unit, row.description)


def _observed(look: Callable[[], QueueHealth | None], field: str, _: CallbackOptions) -> Iterator[Observation]:
    if (health := look()) is not None:
        yield Observation(getattr(health, field))


def configure_logging(settings: TelemetrySettings) -> None:
    """Our events and the libraries' go to stderr in one form: an object a line, or readable text on a terminal."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Any = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for chatty in ("httpx2", "httpcore2", "hypercorn.access", "quart.app"):  # the door logs its own requests
        logging.getLogger(chatty).setLevel(logging.WARNING)
