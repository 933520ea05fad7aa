"""The composition root: builds the store, the engine, the chain and the door, runs them, and ends them in order.

store ◀── door (Hypercorn, shielded)          SIGTERM   not ready · drain · grace · give back · door closes
  ▲                                           again     stop now
  └────── chain ──▶ room ──▶ engine
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import anyio
import structlog
from anyio import CancelScope
from anyio.abc import TaskStatus
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from quart import Quart

from api import EngineFacts, Health, create_app
from api.engine import CapabilitiesView, EngineState, RoomView, StageView
from api.gauges import QueueGauges
from api.webhooks import WebhookSender
from pipeline.chain import Chain
from pipeline.errors import ConfigError
from pipeline.settings import Settings
from pipeline.store import Store, Unavailable
from pipeline.store.embedded import EmbeddedPostgres
from pipeline.store.postgres import PostgresStore, migrate
from pipeline.telemetry import ENGINE_BATCHES, ENGINE_BUSY, ENGINE_READY, ENGINE_WINDOWS, Telemetry
from pipeline.transcript import Transcript
from stages import chain
from stages.engines import Engine
from stages.engines.room import ModelRoom

log = structlog.get_logger()

CONNECTIONS_WAITING = 128


class Service:
    """One replica. ``run`` returns when it has ended; ``end`` asks for that, and a second time for haste."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.ended = anyio.Event()
        self._ending = anyio.Event()
        self._hurrying = anyio.Event()
        self._chain_over = anyio.Event()
        self._door_closing = anyio.Event()

    def end(self) -> None:
        if self._ending.is_set():
            self._hurrying.set()
        self._ending.set()

    async def run(self, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        """Starts with the address it answers at. Raises ``ConfigError`` for what has to be set right first."""
        with _listening(self.settings.http.host, self.settings.http.port) as door:
            address = reached_at(*door.getsockname()[:2])
            async with opened_store(self.settings) as store:
                room, telemetry = new_room(self.engine, self.settings), Telemetry()
                line = chain(store.queue(), room, self.settings, telemetry)
                _measure(telemetry, room, line)
                app, sender = self._app(store, room, line), WebhookSender(store.outbox(), self.settings)
                gauges = QueueGauges(store.queue())
                telemetry.watch_queue(lambda: gauges.health)
                try:
                    async with anyio.create_task_group() as group:
                        await group.start(self._run_chain, line)
                        group.start_soon(self._answer, app, door)
                        # What is not sent by the end is in the outbox, for another replica or the next start.
                        group.start_soon(self._while_open, sender.run)
                        group.start_soon(self._while_open, gauges.run)
                        group.start_soon(self._wind_down, line)
                        self._tell_ready(address)
                        task_status.started(address)
                finally:
                    telemetry.close()
                    self.ended.set()

    def _tell_ready(self, address: str) -> None:
        isolation = self.settings.engine.isolation
        log.info("service-ready", address=address, isolation=isolation, **self.engine.info.model_dump())

    def _app(self, store: Store, room: ModelRoom, line: Chain[Transcript]) -> Quart:
        can = self.engine.capabilities
        facts = EngineFacts(
            translate=can.translate,
            words=can.words,
            prompt=can.prompt,
            languages=can.languages,
            model=self.engine.info.model,
        )
        checks = {"stages": lambda: not self._chain_over.is_set(), "draining": lambda: not self._ending.is_set()}
        stall = self.settings.engine.stall_seconds
        health = Health(store, checks=checks, alive=lambda: not room.hangs(stall))
        look = partial(engine_state, room, line, self.settings, version("antiphon"))
        return create_app(store, self.settings, engine=facts, look=look, health=health)

    async def _run_chain(self, line: Chain[Transcript], *, task_status: TaskStatus[None]) -> None:
        try:
            await line.run(task_status=task_status)
        finally:  # drained, or broken: either way nobody works any more
            self._chain_over.set()
            self._ending.set()
            self._door_closing.set()

    async def _answer(self, app: Quart, door: socket.socket) -> None:
        """Shielded: cancelled with a request open, Hypercorn answers 500 (its issue 184)."""
        config = Config()
        config.bind = [f"fd://{os.dup(door.fileno())}"]  # Hypercorn closes what it is given
        config.graceful_timeout = 5.0
        config.accesslog = None
        config.errorlog = server_log = logging.getLogger("hypercorn.error")
        server_log.setLevel(logging.WARNING)  # where it listens is for us to tell
        with CancelScope(shield=True):
            await hypercorn_serve(app, config, shutdown_trigger=self._door_closing.wait)

    async def _while_open(self, run: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_then_cancel, self._door_closing, group.cancel_scope)
            await run()

    async def _wind_down(self, line: Chain[Transcript]) -> None:
        await self._ending.wait()
        log.info("service-draining", grace_seconds=self.settings.shutdown.grace_seconds)
        line.drain()
        with anyio.move_on_after(self.settings.shutdown.grace_seconds):
            async with anyio.create_task_group() as group:
                for event in (self._chain_over, self._hurrying):
                    group.start_soon(_then_cancel, event, group.cancel_scope)
        line.stop()


async def _then_cancel(event: anyio.Event, scope: CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def serve(settings: Settings, engine: Engine) -> None:
    """Run until SIGTERM or Ctrl-C."""
    service = Service(settings, engine)
    async with anyio.create_task_group() as group:
        group.start_soon(end_on_signals, service.end)
        await service.run()
        group.cancel_scope.cancel()


async def end_on_signals(end: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            end()


def new_room(engine: Engine, settings: Settings) -> ModelRoom:
    return ModelRoom(
        engine,
        memory_limit=settings.engine.memory_limit,
        jobs=settings.queue.jobs_in_flight + settings.queue.reserved_jobs,
        tracks_per_job=settings.audio.max_tracks,
        idle_unload_seconds=settings.engine.idle_unload_seconds,
    )


def engine_state(room: ModelRoom, line: Chain[Transcript], settings: Settings, release: str) -> EngineState:
    """``release``: Antiphon's version."""
    info, can, now = room.engine.info, room.engine.capabilities, room.statistics()
    return EngineState(
        backend=info.backend,
        model=info.model,
        device=info.device,
        compute_type=info.compute_type,
        library_version=info.version,
        isolation=settings.engine.isolation,
        capabilities=CapabilitiesView(
            languages=tuple(sorted(can.languages)),
            words=can.words,
            translate=can.translate,
            prompt=can.prompt,
            batch=can.max_batch,
            lanes=can.lanes,
            cancellable=can.cancellable,
        ),
        loaded_since=now.loaded_since,
        room=RoomView(
            ready=now.ready,
            outside=now.outside,
            batches=now.batches,
            windows=now.windows,
            busy_seconds=round(now.busy_seconds, 3),
        ),
        stages=tuple(
            StageView(stage=one.stage, waiting=one.waiting, active=one.active, workers=one.workers)
            for one in line.statistics()
        ),
        version=release,
    )


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[PostgresStore]:
    """The configured PostgreSQL, or the embedded one; its schema up to date."""
    database = settings.database
    new_store = partial(PostgresStore, pool_size=database.pool_size, settings=settings.queue)
    if database.dsn is not None:
        dsn = database.dsn.get_secret_value()
        direct = database.direct_dsn.get_secret_value() if database.direct_dsn else None
        try:
            await migrate(direct or dsn)
        except Unavailable as error:
            raise ConfigError(f"{error} Start it, or correct DATABASE__DSN.") from error
        async with new_store(dsn, direct) as store:
            yield store
        return
    async with EmbeddedPostgres(settings.data_dir, database.binaries) as server:
        await migrate(server.dsn)
        async with new_store(server.dsn) as store:
            if server.owned:  # it was not running, so whoever held a lease is gone
                await store.queue().void_leases()
            yield store


def _listening(host: str, port: int) -> socket.socket:
    """Taken before the database is opened: a port that is taken is no reason to start one."""
    try:
        return socket.create_server((host, port), family=_family(host), backlog=CONNECTIONS_WAITING)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # Python adds the address
        raise ConfigError(f"{host}:{port} cannot be listened on ({reason}); set HTTP__HOST or HTTP__PORT.") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reached_at(host: str, port: int) -> str:
    """The address of a service on this machine that listens at ``host``, which may stand for all of its addresses."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _measure(telemetry: Telemetry, room: ModelRoom, line: Chain[Transcript]) -> None:
    telemetry.watch_steps(line.statistics)
    telemetry.watch(ENGINE_BUSY, lambda: room.statistics().busy_seconds, total=True)
    telemetry.watch(ENGINE_BATCHES, lambda: room.statistics().batches, total=True)
    telemetry.watch(ENGINE_WINDOWS, lambda: room.statistics().windows, total=True)
    telemetry.watch(ENGINE_READY, lambda: room.statistics().ready)
