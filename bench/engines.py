"""Each engine by itself on short clips, beside the same work done by a loop over its own library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from bench import Benchmark
from bench.clips import short_clips
from bench.figures import Figure, Report
from bench.lone import Done, Task, done
from pipeline.settings import MIB, cores

REPETITIONS: Final = 3
MODEL: Final = "base"
BEAM: Final = 5
GREEDY: Final = "faster_whisper library, beam 1"

# Of the encoder of base, for one window of 30 s: its convolutions, and 6 layers of attention and of a perceptron.
LENGTH, WIDTH, MELS, LAYERS = 1500, 512, 80, 6
CONVOLUTIONS: Final = 2 * 3 * WIDTH * (2 * LENGTH * MELS + LENGTH * WIDTH)
LAYER: Final = 2 * (12 * LENGTH * WIDTH**2 + 2 * LENGTH**2 * WIDTH)
OPERATIONS: Final = CONVOLUTIONS + LAYERS * LAYER


@dataclass(frozen=True, slots=True)
class Way:
    """A way of hearing the clips. ``beside``: the library's ways that it is measured beside, and the target of each."""

    name: str
    task: Task
    beside: Mapping[str, float | None]


def run(quick: bool) -> Report:
    measured: dict[str, list[Done]] = {}
    ways = list(_ways(quick))
    for _ in range(1 if quick else REPETITIONS):
        for name, task in {**_libraries(), **{way.name: way.task for way in ways}}.items():
            measured.setdefault(name, []).append(done(task))
    return Report("engines", _told(), list(_figures(ways, measured)))


def _ways(quick: bool) -> Iterator[Way]:
    """Ours: exact at several batch sizes, and fast where it differs by more than its beam."""
    two = f"faster_whisper library, {cores()} workers"
    exact = {two: 1.5, "faster_whisper library": 2.0}
    for batch in (8,) if quick else (1, 4, 8):
        yield Way(
            f"faster_whisper, batch {batch}",
            Task("faster_whisper", MODEL, BEAM, batch),
            exact if batch == 8 else {},
        )
    yield Way(
        "faster_whisper fast, beam 1, batch 8",
        Task("faster_whisper", MODEL, 1, 8, short=True),
        {"faster_whisper library": 4.0, GREEDY: None},
    )
    for batch in (8,) if quick else (1, 8):
        yield Way(
            f"openai_whisper, batch {batch}",
            Task("openai_whisper", MODEL, BEAM, batch),
            {"openai_whisper library": 1.0} if batch == 8 else {},
        )
    yield Way("whisper_cpp", Task("whisper_cpp", MODEL, BEAM, 1), {"whisper_cpp library": 1.0})


def _libraries() -> Mapping[str, Task]:
    """With the same options: beam, language told, words with times, and no second reading."""
    same = {"word_timestamps": True, "temperature": 0.0}
    workers = {"workers": cores(), **same}
    once = {"aligned": True, "temperature_inc": 0.0}
    return {
        "faster_whisper library": Task("faster_whisper", MODEL, BEAM, options=same),
        GREEDY: Task("faster_whisper", MODEL, 1, options=same),
        f"faster_whisper library, {cores()} workers": Task(
            "faster_whisper", MODEL, BEAM, threads=cores(), options=workers
        ),
        "openai_whisper library": Task("openai_whisper", MODEL, BEAM, options=same),
        "whisper_cpp library": Task("whisper_cpp", MODEL, BEAM, options=once),
    }


def _figures(ways: Sequence[Way], measured: Mapping[str, Sequence[Done]]) -> Iterator[Figure]:
    seconds, windows = sum(clip.seconds for clip in short_clips()), len(short_clips())
    peak = [_ceiling() for _ in range(REPETITIONS)]
    yield Figure("matrix product, float32, all cores", peak, "GFLOP/s")
    for name, each in measured.items():
        yield Figure(f"{name}: loaded in", [one.load for one in each], "s")
        yield Figure(f"{name}: memory", [one.peak / MIB for one in each], "MiB")
        yield Figure(f"{name}: speed", [seconds / one.wall for one in each], "× real time")
        yield Figure(f"{name}: CPU", [one.cpu for one in each], "s")
    for way in ways:
        if not way.task.short:  # which works less than a whole window
            share = [windows * OPERATIONS / one.wall / 1e9 / max(peak) for one in measured[way.name]]
            yield Figure(f"{way.name}: of the ceiling, by its encoding alone", share)
        for library, target in way.beside.items():
            pairs = zip(measured[library], measured[way.name], strict=True)
            times = [theirs.cpu / ours.cpu for theirs, ours in pairs]
            yield Figure(f"{way.name}: CPU of the {library}, over ours", times, "×", at_least=target)


def _ceiling(size: int = 2048) -> float:
    """What all cores together reach at a product of two square matrices, in GFLOP/s; the best of several."""
    one = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    best = float("inf")
    for _ in range(8):
        began = perf_counter()
        np.matmul(one, one)
        best = min(best, perf_counter() - began)
    return 2 * size**3 / best / 1e9


def _told() -> dict[str, str]:
    clips = short_clips()
    lengths = sorted(clip.seconds for clip in clips)
    return {
        "clips": f"{len(clips)} of {lengths[0]:.0f} to {lengths[-1]:.0f} s, {sum(lengths):.0f} s together",
        "model": f"{MODEL}; faster_whisper int8, openai_whisper float32, whisper_cpp float16; a process each",
        "options": f"beam {BEAM} (1 for fast), the language told, words with times, no second reading",
        "libraries": "their own transcribe, clip after clip; threads as they come, or workers of one thread each",
    }


BENCHMARK: Final = Benchmark(
    "engines",
    "each engine alone on two dozen short clips: load, memory, speed, and CPU beside its own library",
    f"CPU less than faster-whisper's {cores()} workers 1.5 ×, its default 2 ×, by fast 4 ×; others ≥ 1 × theirs",
    run,
)
