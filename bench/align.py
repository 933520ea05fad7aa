"""Whether a word's time is its time in the media: clicks at known times, through all that can be written here.

Each container × codec is written at several rates: one stream alone and, where the container can, two of them, the
second late and with a hole. Beside our error stands that of decoding all frames and joining them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from bench import Benchmark
from bench.figures import Figure, Report
from bench.tracks import demuxed
from stages.spool import SAMPLE_RATE
from tests.stages.making import Part, Stream, clicks, record

Samples = NDArray[np.int16]

TARGET: Final = 5.0  # ms
UNTOLD: Final = 25.0  # ms: a container that does not tell an encoder's delay, of 23 ms at most at 48 kHz
RATES: Final = (8_000, 16_000, 22_050, 44_100, 48_000)
BROADCAST: Final = (48_000,)

SECONDS: Final = 7.0
FIRST: Final = (0.5, 2.0, 4.0, 6.0)
SECOND: Final = (2.5, 4.5, 5.5)  # of a stream that begins late
LATE: Final = 1.5
HOLE: Final = (3.0, 5.0)  # in the second stream


@dataclass(frozen=True, slots=True)
class Container:
    """``name`` as libav calls its writer. ``late``, ``holes``: whether it keeps them in these codecs."""

    name: str
    codecs: Sequence[str]
    late: bool = False
    holes: bool = False
    rates: Sequence[int] = RATES
    target: float = TARGET


CONTAINERS: Final = (
    Container("wav", ("pcm_s16le", "pcm_f32le", "pcm_mulaw")),
    Container("w64", ("pcm_s16le",)),
    Container("aiff", ("pcm_s16be",)),
    Container("au", ("pcm_s16be",)),
    Container("caf", ("pcm_s16le", "alac")),
    Container("flac", ("flac",)),
    Container("mp3", ("libmp3lame",)),
    Container("ogg", ("libopus", "vorbis"), late=True),  # a page has one time stamp: a hole within it is not seen
    Container("ogg", ("flac",)),
    Container("webm", ("libopus", "vorbis"), late=True, holes=True),
    Container(
        "matroska",
        ("pcm_s16le", "flac", "alac", "aac", "libopus", "libmp3lame", "mp2", "vorbis", "ac3"),
        late=True,
        holes=True,
    ),
    Container("mp4", ("aac", "alac", "libopus", "libmp3lame", "flac", "ac3"), late=True, holes=True),
    Container("mov", ("aac", "alac"), late=True, holes=True),
    Container("mov", ("pcm_s16le",), late=True),
    Container("mpegts", ("aac", "mp2", "libmp3lame", "ac3"), late=True, holes=True, rates=BROADCAST, target=UNTOLD),
    Container("mpeg", ("mp2", "ac3"), late=True, holes=True, rates=BROADCAST, target=UNTOLD),
    Container("asf", ("libmp3lame",), late=True, holes=True, rates=BROADCAST, target=UNTOLD),
    Container("flv", ("aac", "libmp3lame"), rates=BROADCAST, target=UNTOLD),
    Container("avi", ("pcm_s16le", "libmp3lame", "ac3"), rates=BROADCAST, target=UNTOLD),
    Container("adts", ("aac",), rates=BROADCAST, target=UNTOLD),
    Container("ac3", ("ac3",), rates=BROADCAST, target=UNTOLD),
)


def run(quick: bool) -> Report:
    figures = [figure for container in CONTAINERS for figure in measure(container, quick=quick)]
    told = {
        "each file": "the largest error of its clicks; each line the largest of all its files",
        "frames joined": "all frames decoded and joined, their time stamps ignored",
    }
    return Report("align", told, figures)


def measure(container: Container, *, quick: bool) -> Iterator[Figure]:
    """The largest error of each codec in this container, and that of joining all frames. ``quick``: one rate."""
    rates = container.rates[-1:] if quick else container.rates
    for codec in container.codecs:
        with tempfile.TemporaryDirectory() as folder:
            files = list(_written(Path(folder), container, codec, rates))
            ours = max(anyio.run(_error, file) for file in files)
            joined = max(_error_when_joined(file) for file in files)
        yield Figure(f"{container.name} {codec}, {len(files)} files", [ours], "ms", at_most=container.target)
        yield Figure("  frames joined", [joined], "ms")


@dataclass(frozen=True, slots=True)
class File:
    """``clicks`` are the times at which they were written, in seconds, for each stream."""

    path: Path
    clicks: Sequence[Sequence[float]]


def _written(folder: Path, container: Container, codec: str, rates: Sequence[int]) -> Iterator[File]:
    """At each rate that the codec has in this container: one stream and, where it can be, two."""
    channels = 2 if codec == "vorbis" else 1  # libav's encoder has no other number
    hole = HOLE if container.holes else (0.0, 0.0)
    later = [click for click in SECOND if not hole[0] <= click < hole[1]]
    for rate in rates:
        sound = clicks(*FIRST, seconds=SECONDS, rate=rate, channels=channels)
        late = clicks(*SECOND, seconds=SECONDS - LATE, rate=rate, begins=LATE, channels=channels)
        first, second = Stream([Part(0.0, sound)], rate, codec), Stream([Part(LATE, late)], rate, codec, lost=hole)
        with suppress(av.ArgumentError):
            yield File(record(folder / f"one-{rate}", first, container_format=container.name), [FIRST])
            if container.late:
                both = record(folder / f"two-{rate}", first, second, container_format=container.name)
                yield File(both, [FIRST, later])


async def _error(file: File) -> float:
    async with demuxed(file.path, file.path.parent) as tracks:
        heard = [await track.spool.read(0, round(2 * SECONDS * SAMPLE_RATE)) for track in tracks]
    return max(_largest(samples, written) for samples, written in zip(heard, file.clicks, strict=True))


def _error_when_joined(file: File) -> float:
    errors = []
    for number, written in enumerate(file.clicks):
        with av.open(str(file.path)) as container:
            convert = AudioResampler("s16", "mono", SAMPLE_RATE)
            frames = [out for frame in container.decode(audio=number) for out in convert.resample(frame)]
            samples = np.concatenate([out.to_ndarray()[0] for out in [*frames, *convert.resample(None)]])
        errors.append(_largest(samples, written))
    return max(errors)


def _largest(samples: Samples, written: Sequence[float]) -> float:
    """How far a click is from where it was written, at most, in milliseconds; infinite if one was lost or doubled."""
    heard = _heard(samples)
    if len(heard) != len(written):
        return math.inf
    return 1000 * max(abs(one - other) for one, other in zip(heard, written, strict=True))


def _heard(samples: Samples) -> list[float]:
    """Where clicks begin, in seconds: where what was written fits best."""
    burst = clicks(0.0, seconds=0.01, rate=SAMPLE_RATE)[0]
    fit = np.abs(np.correlate(samples.astype(np.float32) / (1 << 15), burst))
    loud = np.flatnonzero(fit > fit.max() / 2)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > SAMPLE_RATE // 10) + 1)
    return [int(group[np.argmax(fit[group])]) / SAMPLE_RATE for group in groups]


BENCHMARK: Final = Benchmark(
    "align",
    "clicks at known times through every container and codec: the largest error in their times",
    f"≤ {TARGET:g} ms, ≤ {UNTOLD:g} ms where an encoder's delay is not told",
    run,
)
