"""How near the chain comes to the peak of an engine much faster than fetching: windows a second over what it can do.

one job at a time       fetch ENGINE · fetch ENGINE · …     the device waits for the network
ahead, but one by one   ENGINE ENGINE ENGINE …              never idle, and most of it lost to starting
through the chain       ENGINE, sixteen windows at once …   while the next ones are fetched
"""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bench import Benchmark
from bench.clips import RATE, decoded
from bench.figures import Figure, Report
from bench.sides import Side, Work, one_after_another, through_the_chain
from bench.watched import Alone, alone
from bench.web import serving_apart
from pipeline.jobs import Tenant
from pipeline.settings import Settings
from pipeline.store.memory import MemoryStore
from stages.engines.mock import MockEngine, Script

# A device on which starting a pass takes ten times as long as a window in it: at its peak 123 windows a second.
FAST: Final = Script(base_seconds=0.05, window_seconds=0.005, max_batch=16)
LATENCY: Final = 0.3  # seconds until the media server answers
TENANTS: Final = tuple(map(Tenant, ("north", "east", "south", "west")))
# All fit one window, so that jobs and windows are the same number. On two cores there are 16 ms a job, of which Python
# can use 8: what is decoded and listened to is kept short.
CLIPS: Final = {"austen_0880.flac": 1.0, "leopard_de.flac": 1.5, "leopard_en.flac": 1.0, "austen_0890.flac": 1.5}

# R is 123 jobs a second at full batches; T, from claim to first window, about 0.5 s: 1.5 · R · T, and two batches.
JOBS_IN_FLIGHT: Final = 128
SLOWER_IN_FLIGHT: Final = 16  # the same for the 18 jobs a second of single windows
DOWNLOADS: Final = 64
TRACKS: Final = 1  # or the transcriber would begin with a hand for each of 32 tracks of 128 jobs

TARGET: Final = 0.97
REPETITIONS: Final = 3


@dataclass(frozen=True, slots=True)
class Repetition:
    """The same jobs in three ways, and ``alone``: the windows of the last one without anything around them."""

    once: Side
    ahead: Side
    batched: Side
    alone: Alone


def run(quick: bool) -> Report:
    jobs, repetitions = (300, 1) if quick else (1500, REPETITIONS)
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), jobs, repetitions)


def measure(folder: Path, jobs: int, repetitions: int) -> Report:
    names = list(_recorded(folder))
    with serving_apart(folder, names, LATENCY) as urls:
        measured = anyio.run(_measure, folder, urls, jobs, repetitions)
    return Report("goodput", _told(), list(_figures(measured)))


async def _measure(folder: Path, urls: Sequence[str], jobs: int, repetitions: int) -> list[Repetition]:
    work = Work(_settings(folder), MockEngine(FAST), MemoryStore(), urls, TENANTS)
    return [await _repeat(work, jobs) for _ in range(repetitions)]


async def _repeat(work: Work, jobs: int) -> Repetition:
    once = await one_after_another(_afresh(work, FAST, 1), jobs // 60)
    single = FAST.model_copy(update={"max_batch": 1})
    ahead = await through_the_chain(_afresh(work, single, SLOWER_IN_FLIGHT), jobs // 6)
    batched = await through_the_chain(_afresh(work, FAST, JOBS_IN_FLIGHT), jobs)
    return Repetition(once, ahead, batched, await to_thread.run_sync(alone, work.engine, batched.engine.items))


def _afresh(work: Work, script: Script, jobs_in_flight: int) -> Work:
    """With a store of its own: that of memory looks at all jobs it ever had."""
    queue = work.settings.queue.model_copy(update={"jobs_in_flight": jobs_in_flight})
    settings = work.settings.model_copy(update={"queue": queue})
    return replace(work, settings=settings, engine=MockEngine(script), store=MemoryStore())


def _figures(measured: Sequence[Repetition]) -> Iterator[Figure]:
    def figure(name: str, value: Callable[[Repetition], float], unit: str = "", target: float | None = None) -> Figure:
        return Figure(name, [value(one) for one in measured], unit, at_least=target)

    yield figure("peak: the engine alone, full batches", lambda one: one.alone.rate, "windows/s")
    yield figure("goodput, one job at a time", lambda one: one.once.rate / one.alone.rate)
    yield figure("goodput, fetched ahead, no batches", lambda one: one.ahead.rate / one.alone.rate)
    yield figure("goodput, through the chain", lambda one: one.batched.rate / one.alone.rate, "", TARGET)
    yield figure("busy share, fetched ahead, no batches", lambda one: one.ahead.busy)
    yield figure("busy share, through the chain", lambda one: one.batched.busy)
    yield figure("CPU a job, one job at a time", lambda one: one.once.cpu_a_job * 1000, "ms")
    yield figure("CPU a job, through the chain", lambda one: one.batched.cpu_a_job * 1000, "ms")


def _recorded(folder: Path) -> Iterator[str]:
    """The beginnings of real recordings, as files of their own: 16-bit WAV."""
    for name, seconds in CLIPS.items():
        file = (folder / name).with_suffix(".wav")
        with wave.open(str(file), "wb") as writer:
            writer.setparams((1, 2, RATE, 0, "NONE", ""))
            writer.writeframes((decoded(name)[: round(seconds * RATE)] * 32_767).astype("<i2").tobytes())
        yield file.name


def _settings(folder: Path) -> Settings:
    asked = Settings()
    download = {"workers": DOWNLOADS, "allow_networks": (IPv4Network("127.0.0.0/8"),), "allow_ports": ()}
    return asked.model_copy(
        update={
            "data_dir": folder / "data",
            "audio": asked.audio.model_copy(update={"max_tracks": TRACKS}),
            "download": asked.download.model_copy(update=download),
        }
    )


def _told() -> dict[str, str]:
    clips = ", ".join(f"{seconds:g} s of {name}" for name, seconds in CLIPS.items())
    return {
        "engine": f"mock, {FAST.base_seconds:g} s a batch, {FAST.window_seconds:g} a window, {FAST.max_batch} at once",
        "QUEUE__JOBS_IN_FLIGHT": f"{JOBS_IN_FLIGHT}, without batches {SLOWER_IN_FLIGHT}",
        "DOWNLOAD__WORKERS": str(DOWNLOADS),
        "AUDIO__MAX_TRACKS": str(TRACKS),
        "media": f"{clips}, as WAV; answered after {LATENCY:g} s, by a process of its own",
        "tenants": str(len(TENANTS)),
    }


BENCHMARK: Final = Benchmark(
    "goodput",
    "windows a second beside a fast engine and a slow network: one job at a time, ahead, and in batches",
    f"≥ {TARGET:g} of the engine's peak",
    run,
)
