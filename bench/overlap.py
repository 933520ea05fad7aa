"""What overlapping gives, and whether the engine ever waits while there is work.

one after another    fetch decode hear ENGINE write · fetch decode hear ENGINE write · …
through the chain    ENGINE ENGINE ENGINE ENGINE …, and everything else beside it
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from api.service import opened_store
from bench import RECORDINGS, Benchmark
from bench.figures import Figure, Report
from bench.sides import Side, Work, one_after_another, through_the_chain
from bench.watched import Alone, alone
from bench.web import serving
from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.store.memory import MemoryStore
from stages.engines import Engine, load
from stages.engines.mock import MockEngine, Script

# All fit one window, so that jobs and windows are the same number.
SHORT: Final = ("austen_0880.flac", "leopard_de.flac", "austen_0890.flac", "leopard_en.flac")
VARIED: Final = (*SHORT, "austen_0870.flac", "leopard_fr.flac", "jfk.flac", "sonnet_clip.mp3")
LATENCY: Final = (0.05, 0.3)  # seconds until the media server answers

TARGET: Final = 0.97
REPETITIONS: Final = 3

# 26 windows a second. Everything else takes about 25 ms of Python a job: beside a device much faster than this, the
# benchmark would tell how fast one core runs Python.
SCRIPT: Final = Script(base_seconds=0.05, window_seconds=0.035, max_batch=16)


@dataclass(frozen=True, slots=True)
class Case:
    """An engine, and the jobs to measure it with. ``one_by_one``: how many of them also go one after another.

    ``jobs_in_flight``: 1.5 · R · T for those that are fetched, and as many as are in the batches that run and that
    wait for their turn. R is jobs a second at full batches, T seconds from claim to first window.
    """

    name: str
    jobs: int
    one_by_one: int
    jobs_in_flight: int
    recordings: Sequence[str]
    load: Callable[[Settings], Engine]
    opened_store: Callable[[Settings], AbstractAsyncContextManager[Store]]
    target: float | None


@dataclass(frozen=True, slots=True)
class Repetition:
    """``beside``: the same jobs with an engine that takes no time. ``alone``: their windows without anything else."""

    once: Side
    run: Side
    beside: Side
    alone: Alone


def mock(*, quick: bool) -> Case:
    """R is 26, T about 0.3: 12, and 32 in two batches."""
    jobs, one_by_one = (128, 16) if quick else (320, 80)
    return Case("mock", jobs, one_by_one, 48, SHORT, _load_mock, _open_memory, TARGET)


def real(*, quick: bool) -> Case:
    """R is about 1, T about 0.4: next to nothing, and 16 windows in the batches that run, half as many waiting."""
    jobs, one_by_one, jobs_in_flight = (16, 4, 8) if quick else (48, 16, 24)
    return Case("real", jobs, one_by_one, jobs_in_flight, VARIED, _load_real, opened_store, None)


def run(quick: bool) -> Report:
    repetitions = 1 if quick else REPETITIONS
    first, second = measure(mock(quick=quick), repetitions), measure(real(quick=quick), repetitions)
    return Report("overlap", {**first.settings, **second.settings}, [*first.figures, *second.figures])


def measure(case: Case, repetitions: int) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(case, Path(folder))
        with closing(case.load(settings)) as engine:
            measured = anyio.run(_measure, case, settings, engine, repetitions)
            return Report(case.name, _told(case, settings, engine), list(_figures(case, measured)))


async def _measure(case: Case, settings: Settings, engine: Engine, repetitions: int) -> list[Repetition]:
    async with serving(RECORDINGS, case.recordings, LATENCY) as web, case.opened_store(settings) as store:
        work = Work(settings, engine, store, [web.url(name) for name in case.recordings])
        return [await _repeat(work, case) for _ in range(repetitions)]


async def _repeat(work: Work, case: Case) -> Repetition:
    """The sides in turn, so that what else the machine does falls on all of them."""
    once = await one_after_another(work, case.one_by_one)
    run = await through_the_chain(work, case.jobs)
    beside = await through_the_chain(replace(work, engine=MockEngine(), store=MemoryStore()), case.one_by_one)
    return Repetition(once, run, beside, await to_thread.run_sync(alone, work.engine, run.engine.items))


def _figures(case: Case, measured: Sequence[Repetition]) -> Iterator[Figure]:
    def figure(name: str, value: Callable[[Repetition], float], unit: str = "", target: float | None = None) -> Figure:
        return Figure(f"{case.name}: {name}", [value(one) for one in measured], unit, at_least=target)

    yield figure(f"{case.one_by_one} jobs one after another", lambda one: one.once.wall, "s")
    yield figure(f"{case.jobs} jobs through the chain", lambda one: one.run.wall, "s")
    yield figure("ratio of the two, a job", lambda one: one.once.wall_a_job / one.run.wall_a_job)
    yield figure("busy share of the engine, with a backlog", lambda one: one.run.busy, "", case.target)
    yield figure("goodput, with a backlog", lambda one: one.run.rate / one.alone.rate, "", case.target)
    yield figure("windows a second, engine alone", lambda one: one.alone.rate, "/s")
    yield figure("CPU a job, one after another", lambda one: one.once.cpu_a_job, "s")
    yield figure("CPU a job, through the chain", lambda one: one.run.cpu_a_job, "s")
    yield figure("CPU a job, the engine's", lambda one: one.alone.cpu, "s")
    yield figure("CPU a job, all the rest: fetch, decode, hear", lambda one: one.beside.cpu_a_job, "s")


def _told(case: Case, settings: Settings, engine: Engine) -> dict[str, str]:
    info, can = engine.info, engine.capabilities
    return {
        f"{case.name}: engine": f"{info.backend} {info.model} {info.compute_type}, {can.lanes} × {can.max_batch}",
        f"{case.name}: QUEUE__JOBS_IN_FLIGHT": str(settings.queue.jobs_in_flight),
        f"{case.name}: DOWNLOAD__WORKERS": str(settings.download.workers),
        f"{case.name}: media": f"{', '.join(case.recordings)}; answered in {LATENCY[0]:g} … {LATENCY[1]:g} s",
    }


def _settings(case: Case, folder: Path) -> Settings:
    """As configured, but for a database of its own: nobody else's jobs, and nobody else's worker."""
    asked = Settings()
    queue = {"jobs_in_flight": case.jobs_in_flight}
    download = {"workers": 16, "allow_networks": (IPv4Network("127.0.0.0/8"),), "allow_ports": ()}
    return asked.model_copy(
        update={
            "data_dir": folder,
            "database": asked.database.model_copy(update={"dsn": None}),
            "queue": asked.queue.model_copy(update=queue),
            "download": asked.download.model_copy(update=download),
        }
    )


def _load_mock(_: Settings) -> Engine:
    return MockEngine(SCRIPT)


def _load_real(settings: Settings) -> Engine:
    return load(settings.engine)


def _open_memory(_: Settings) -> MemoryStore:
    return MemoryStore()


BENCHMARK: Final = Benchmark(
    "overlap",
    "the same jobs one after another and through the chain, with a mock and with the real engine",
    f"with the mock, while there is a backlog: busy share and goodput ≥ {TARGET:g}",
    run,
)
