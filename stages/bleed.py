"""Another's voice on a track, once it is found: left out of what the engine hears, or told of in what it said."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from pipeline.transcript import Crosstalk, Notice
from stages.messages import Bleed
from stages.speech import MIN_SPEECH_FRAMES, PAD_FRAMES
from stages.spool import SAMPLE_RATE, Region
from stages.voice import FRAME

PAD: Final = PAD_FRAMES * FRAME
LEAST: Final = MIN_SPEECH_FRAMES * FRAME

LISTED: Final = 20
"""Stretches that a warning lists; hours of an open microphone have thousands."""


def sharing(bleed: Sequence[Bleed], region: Region) -> Iterator[Bleed]:
    """Those that share some time with ``region``, in order."""
    first = bisect_right(bleed, region.start, key=lambda other: other.region.end)
    for n in range(first, len(bleed)):
        if bleed[n].region.start >= region.end:
            return
        yield bleed[n]


def own_speech(speech: Iterable[Region], bleed: Sequence[Bleed]) -> Iterator[Region]:
    """Speech less the bleed in it; what remains but is too short to be speech goes too.

    Where a stretch was cut it reaches a little into the bleed, as it reaches into the silence elsewhere: that is to
    be made silent, so that the model hears a pause and does not join what was said before to what was said after.
    """
    for region in speech:
        others = [other.region for other in sharing(bleed, region)]
        pads = [0, *(min(PAD, (other.end - other.start) // 2) for other in others), 0]
        starts = [region.start, *(other.end for other in others)]
        ends = [*(other.start for other in others), region.end]
        for n, (start, end, (before, after)) in enumerate(zip(starts, ends, pairwise(pads), strict=True)):
            uncut_ends = (n == 0) + (n == len(others))
            if not others or end - start >= LEAST + uncut_ends * PAD:
                yield Region(max(start - before, region.start), min(end + after, region.end))


def whose(stretches: Iterable[Region], bleed: Sequence[Bleed]) -> Crosstalk | None:
    """The track whose voice these stretches are, if more than half of their time is bleed."""
    total = 0
    filled: dict[str, int] = defaultdict(int)
    sure: dict[str, float] = defaultdict(float)
    for stretch in stretches:
        total += stretch.end - stretch.start
        for other in sharing(bleed, stretch):
            length = min(other.region.end, stretch.end) - max(other.region.start, stretch.start)
            filled[other.source] += length
            sure[other.source] += length * other.score
    if 2 * sum(filled.values()) <= total:
        return None
    source = max(filled, key=lambda source: filled[source])
    return Crosstalk(source=source, score=round(sure[source] / filled[source], 3))


def suppressed(track: str, bleed: Sequence[Bleed]) -> Notice:
    """What was left out of a track, and whose voice it is."""
    seconds: dict[str, float] = defaultdict(float)
    for other in bleed:
        seconds[other.source] += _seconds(other.region.end - other.region.start)
    count = "1 stretch" if len(bleed) == 1 else f"{len(bleed)} stretches"
    voices = ", ".join(f"{source} ({length:.1f} s)" for source, length in sorted(seconds.items()))
    places = [f"{_seconds(o.region.start):.2f}-{_seconds(o.region.end):.2f} s" for o in bleed[:LISTED]]
    if len(bleed) > LISTED:
        places.append(f"{len(bleed) - LISTED} more")
    detail = f"Left out {count} with the voice of {voices}: {', '.join(places)}."
    return Notice(code="crosstalk-suppressed", track=track, detail=detail)


def _seconds(samples: int) -> float:
    return samples / SAMPLE_RATE
