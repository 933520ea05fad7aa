"""How much of what bleeds from microphone to microphone is found, how much of what is one's own is lost with it.

By words: one is found, or lost, when most of it lies in a Bleed. Words on which the track's own speaker speaks too are
not counted as doubled: they stay for the sake of his.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import thread_time
from typing import Final

import anyio
import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from bench import RECORDINGS, Benchmark
from bench.figures import Figure, Report
from bench.rooms import Meeting, Room, Sound, Span, meeting, voices
from pipeline.settings import AudioSettings
from stages import crosstalk
from stages.crosstalk import Heard
from stages.messages import Bleed
from stages.speech import regions
from stages.spool import Region, Samples, Spool

FOUND: Final = 0.95
LOST: Final = 0.01
SEEDS: Final = 3

USUAL: Final = Room(bleed=-10)
# What is asked for: from -6 dB down, in every kind of room.
ROOMS: Final = {
    **{f"{bleed} dB": replace(USUAL, bleed=bleed) for bleed in (-6, -10, -15, -20, -30)},
    "-6 dB, no reverberation": replace(USUAL, bleed=-6, reverberation=0),
    "-6 dB, two tracks": replace(USUAL, bleed=-6, tracks=2),
    "-6 dB, four tracks": replace(USUAL, bleed=-6, tracks=4),
    "-10 dB, 20 … 120 ms": replace(USUAL, delay=(20, 120)),
    "-10 dB, 200 ppm": replace(USUAL, drift=200),
    "-10 dB, noise at -20 dB": replace(USUAL, noise=-20),
    "-20 dB, noise at -30 dB": replace(USUAL, bleed=-20, noise=-30),
    "-10 dB, half the turns overlap": replace(USUAL, overlap=0.5),
    "-10 dB, one 12 dB quieter": replace(USUAL, quieter=12),
    "-10 dB, one says nothing": replace(USUAL, silent=(2,)),
    "no bleed, half the turns overlap": replace(USUAL, bleed=None, overlap=0.5),
}
# What can only be told of: where the own voice is hardly louder than the other, or never heard.
CORNERS: Final = {
    "-3 dB": replace(USUAL, bleed=-3),
    "-10 dB, one of two says nothing": replace(USUAL, tracks=2, silent=(1,)),
    "-3 dB, half the turns overlap": replace(USUAL, bleed=-3, overlap=0.5),
    "-3 dB, one 12 dB quieter": replace(USUAL, bleed=-3, quieter=12),
    "-6 dB, one 12 dB quieter": replace(USUAL, bleed=-6, quieter=12),
    "-6 dB, four tracks, 0 … 120 ms, 200 ppm, noise at -25 dB": replace(
        USUAL, bleed=-6, tracks=4, delay=(0, 120), drift=200, noise=-25
    ),
}
QUICK: Final = ("-6 dB", "-20 dB", "no bleed, half the turns overlap", "-3 dB")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of words, and CPU seconds a track-hour. ``named``: of those found, whose source is right."""

    own: int
    lost: int
    doubled: int
    found: int
    named: int
    cpu: float


def run(quick: bool) -> Report:
    rooms = ROOMS | CORNERS
    asked = {name: room for name, room in rooms.items() if name in QUICK or not quick}
    spoken = voices(RECORDINGS)
    figures = [
        figure
        for name, room in asked.items()
        for figure in _figures(name, room, [measure(room, spoken, seed) for seed in range(1 if quick else SEEDS)])
    ]
    told = (
        f"{USUAL.tracks} tracks of {USUAL.seconds} s, {USUAL.overlap:.0%} of turns overlap, gains ± {USUAL.gains:g} dB"
    )
    return Report("crosstalk", {"unless said": told}, figures)


def measure(room: Room, spoken: Sequence[Sound], seed: int) -> Outcome:
    """What is found in this room."""
    held = meeting(room, spoken, seed)
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(_measure, held, Path(folder))


async def _measure(held: Meeting, folder: Path) -> Outcome:
    tracks = [await listened(folder / str(n), samples) for n, samples in enumerate(held.tracks)]
    bleeds, seconds = await to_thread.run_sync(_timed, tracks)
    return judge(held, tracks, bleeds, seconds * 3600 / sum(heard.spool.seconds for heard in tracks))


async def listened(path: Path, samples: Samples) -> Heard:
    """A track as cross-talk is looked for on it: whole, and heard. ``path`` is its spool, and names it."""
    spool = Spool(path)
    await to_thread.run_sync(_write, spool, samples)
    return Heard(path.name, spool, tuple([region async for region in regions(spool, AudioSettings())]))


def _write(spool: Spool, samples: Samples) -> None:
    spool.append(samples)
    spool.finish()


def _timed(tracks: Sequence[Heard]) -> tuple[Mapping[str, tuple[Bleed, ...]], float]:
    before = thread_time()
    return crosstalk.find(tracks), thread_time() - before


def judge(held: Meeting, tracks: Sequence[Heard], bleeds: Mapping[str, tuple[Bleed, ...]], cpu: float = 0) -> Outcome:
    """What became of each word. A doubled one that is not in the track's speech is heard by nobody, and not counted."""
    own = lost = doubled = found = named = 0
    for number, heard in enumerate(tracks):
        mine = held.words[number][number]
        spoken, speech = _Cover(mine), _Cover(_spans(heard.speech))
        bled = _Cover(_spans(bleed.region for bleed in bleeds[heard.track]))
        own, lost = own + len(mine), lost + sum(map(bled.most, mine))
        for speaker in {*range(len(tracks))} - {number}:
            words = [word for word in held.words[number][speaker] if speech.most(word) and not spoken.any(word)]
            source = tracks[speaker].track
            right = _Cover(_spans(bleed.region for bleed in bleeds[heard.track] if bleed.source == source))
            doubled, found = doubled + len(words), found + sum(map(bled.most, words))
            named += sum(map(right.most, words))
    return Outcome(own, lost, doubled, found, named, cpu)


class _Cover:
    """Which samples lie in any of some spans."""

    def __init__(self, spans: Sequence[Span]) -> None:
        covered = np.zeros(max((end for _, end in spans), default=0), np.int64)
        for start, end in spans:
            covered[start:end] = 1
        self._sums: NDArray[np.int64] = np.concatenate([[0], np.cumsum(covered)])

    def any(self, span: Span) -> bool:
        return self._count(span) > 0

    def most(self, span: Span) -> bool:
        return self._count(span) > (span[1] - span[0]) / 2

    def _count(self, span: Span) -> int:
        first, last = (self._sums[min(edge, len(self._sums) - 1)] for edge in span)
        return int(last - first)


def _spans(regions: Iterable[Region]) -> list[Span]:
    return [(region.start, region.end) for region in regions]


def _figures(name: str, room: Room, measured: Sequence[Outcome]) -> Iterator[Figure]:
    asked = name in ROOMS
    if room.bleed is not None:
        found = [one.found / max(1, one.doubled) for one in measured]
        yield Figure(f"{name}: doubled words found", found, at_least=FOUND if asked else None)
        yield Figure(f"{name}: of these with the right source", [one.named / max(1, one.found) for one in measured])
    lost = [one.lost / one.own for one in measured]
    yield Figure(f"{name}: own words lost", lost, at_most=LOST if asked else None)
    yield Figure(f"{name}: CPU a track-hour", [one.cpu for one in measured], "s")


BENCHMARK: Final = Benchmark(
    "crosstalk",
    "bleed between microphones: doubled words that are found, own words that are lost with them, and what it costs",
    f"from -6 dB down: found ≥ {FOUND:.0%}, lost ≤ {LOST:.0%}",
    run,
)
